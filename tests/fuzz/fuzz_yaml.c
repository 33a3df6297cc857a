/* fuzz_yaml: any bytes as a configuration file.
 *
 * Holds: no crash, no leak, an answer exactly when there is no problem, and messages that a terminal can
 * show. Paths in the text lead into an empty folder unless they are absolute; files are only ever read. */
#include "config/tenancy.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/core/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config_problems problems;
    struct tenancy *t = NULL;
    struct buf printed = BUF_INIT(1 << 20);
    config_problems_init(&problems);
    int r = tenancy_parse("/nowhere/fuzz.yaml", slice_of(data, size), &problems, &t);
    must((r == 0) == (problems.n == 0));
    must((r == 0) == (t != NULL));
    config_problems_print(&problems, &printed);
    must(!printed.is_full);
    size_t lines = 0;
    for (size_t i = 0; i < printed.n; i++) {
        unsigned char c = (unsigned char)printed.p[i];
        must((c >= 0x20 && c != 0x7f) || c == '\n');
        lines += c == '\n';
    }
    must(lines == problems.n + (problems.dropped > 0));
    if (t != NULL) {
        must(t->n_tenants > 0 && t->n_templates > 0 && t->n_providers > 0 && t->n_listen > 0);
        for (size_t i = 0; i < t->n_tenants; i++) {
            must(t->tenants[i].n_templates > 0);
            must(tenancy_tenant(t, t->tenants[i].name) == &t->tenants[i]);
            for (size_t j = 0; j < t->tenants[i].n_keys; j++) {
                const struct config_tenant *of;
                must(tenancy_key(t, t->tenants[i].keys[j].hash, &of) == &t->tenants[i].keys[j]);
                must(of == &t->tenants[i]);
            }
        }
        for (size_t i = 0; i < t->n_templates; i++)
            must(t->templates[i].n_providers > 0);
    }
    tenancy_unref(t);
    config_problems_fini(&problems);
    buf_fini(&printed);
    return 0;
}
