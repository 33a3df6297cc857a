/* The ClientHello reader: any bytes, whole and split in two, give the same answer, and a name only when it
 * fits. */
#include <stdlib.h>
#include <string.h>

#include "base/core/mem.h"
#include "base/net/client_hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct client_hello whole, part;
    int rc = client_hello_parse(slice_of(data, n), &whole, NULL);
    must(rc != 0 || whole.n_bytes <= n);
    must(rc == 0 || rc == E_AGAIN || rc == E_INVALID || rc == E_SYNTAX || rc == E_TOO_LARGE);
    must(!whole.has_name || rc != 0 || (strlen(whole.name) > 0 && strlen(whole.name) < sizeof whole.name));
    for (size_t i = 0; i < n && i < 64; i++) {
        size_t at = n * i / 64;
        int early = client_hello_parse(slice_of(data, at), &part, NULL);
        /* what was decided stays decided, however much comes behind it */
        must(early == E_AGAIN || early == rc);
        must(early != 0 || (part.has_name == whole.has_name && strcmp(part.name, whole.name) == 0));
    }
    bool is_retry;
    rc = client_hello_parse_second(slice_of(data, n), &part, NULL);
    must(rc != 0 || part.n_bytes <= n);
    must(rc == 0 || rc == E_AGAIN || rc == E_INVALID || rc == E_SYNTAX || rc == E_TOO_LARGE);
    rc = server_hello_parse(slice_of(data, n), &is_retry);
    must(rc == 0 || (rc == E_AGAIN && n < SERVER_HELLO_BYTES && !is_retry));
    return 0;
}
