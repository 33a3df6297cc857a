/* envelope: the outside of a JSON-RPC message: id and method, found without building a tree.
 *
 * For event streams, where every message passes and few matter, and for the first bytes of a body that is too
 * large to keep. It looks at the members of the outermost object and skips their values; a text that is cut
 * off gives what was found before the cut. What a client sends is parsed strictly elsewhere. */
#ifndef REEVE_CONTROLLER_EDGE_ENVELOPE_H
#define REEVE_CONTROLLER_EDGE_ENVELOPE_H

#include "base/core/buf.h"
#include "base/core/err.h"
#include "base/core/slice.h"

struct envelope {
    struct slice id;     /* as JSON text (1, "a"); SLICE_NULL when absent or null */
    struct slice method; /* between its quotes, undecoded; SLICE_NULL when absent */
    bool has_result;     /* result or error */
};

bool envelope_scan(struct slice json, struct envelope *ret); /* false: not an object */

/* JSON-RPC's error code of one of ours (a stable number in the range for servers). */
int envelope_error_code(int code);
/* {"jsonrpc":"2.0","id":<id>,"error":{"code","message","data":{"code","status","request_id"}}}; id
 * SLICE_NULL: null. */
void envelope_error(struct buf *out, struct slice id, const struct err *err, const char *request_id);

#endif
