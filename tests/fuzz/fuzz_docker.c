/* fuzz_docker: any bytes as what a Docker engine answers. The first byte chooses the parser. Whatever comes,
 * the parsers answer with a code or a success, what they give is of the shape that they promise, and what is
 * meant to be shown is one line of plain ASCII. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/core/mem.h"
#include "providers/docker_reply.h"
#include "providers/host.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must_be_shown(struct slice s)
{
    must(s.n <= 4096);
    for (size_t i = 0; i < s.n; i++)
        must(s.p[i] >= ' ' && s.p[i] <= '~');
}

static void must_be_container(const struct docker_container *c, bool is_inspected)
{
    must(c->id.n >= 12 && (c->name.n == 0 || host_id_is_valid(c->name)));
    must(c->pid >= 0 && c->status <= DOCKER_REMOVING);
    must(c->labels.controller.p != NULL && c->labels.workspace.p != NULL);
    must_be_shown(c->error);
    for (size_t i = 0; is_inspected && i < c->n_env; i++)
        must(c->env[i].p != NULL);
    must(c->home_source.n == 0 || c->home_source.p[0] == '/');
}

static void inspect(struct slice body, struct arena *a, struct err *err)
{
    struct docker_container c;
    if (docker_inspect_parse(body, a, &c, err) == 0)
        must_be_container(&c, true);
}

static void list(struct slice body, struct arena *a, struct err *err)
{
    struct docker_container *c = NULL;
    size_t count = 0;
    if (docker_list_parse(body, a, &c, &count, err) != 0)
        return;
    for (size_t i = 0; i < count; i++) {
        must_be_container(&c[i], false);
        must(c[i].name.n > 0 && c[i].labels.controller.n > 0);
    }
}

static void engine(char which, struct slice body, struct err *err)
{
    unsigned minor = 0;
    char note[256];
    bool is_ours = false;
    if (which == 'v' && docker_version_parse(body, &minor, err) == 0)
        must(minor >= DOCKER_API_MINOR_MIN && minor <= DOCKER_API_MINOR_MAX);
    else if (which == 'n' && docker_info_parse(body, note, err) == 0)
        must(strlen(note) < sizeof(note));
    else if (which == 'o')
        (void)docker_volume_parse(body, SL("ws-one"), &is_ours, err);
}

static void streams(char which, struct slice body, struct arena *a, struct err *err)
{
    struct docker_event v;
    struct docker_progress p;
    if (which == 'e' && docker_event_parse(body, a, &v, err) == 0)
        must(v.action.n > 0 && host_id_is_valid(v.sandbox) && v.workspace.p != NULL);
    if (which == 'p' && docker_progress_parse(body, a, &p, err) == 0) {
        must_be_shown(p.layer);
        must_be_shown(p.status);
        must_be_shown(p.error);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct arena a = ARENA_INIT;
    struct err err = {0};
    if (n == 0)
        return 0;
    char which = (char)data[0];
    struct slice body = slice_of(data + 1, n - 1);
    switch (which) {
    case 'i':
        inspect(body, &a, &err);
        break;
    case 'l':
        list(body, &a, &err);
        break;
    case 'e':
    case 'p':
        streams(which, body, &a, &err);
        break;
    case 'm':
        must_be_shown(docker_message(body, &a));
        must(docker_message(body, &a).n > 0);
        break;
    case 's':
        must_be_shown(docker_logs_text(body, &a));
        break;
    default:
        engine(which, body, &err);
        break;
    }
    arena_fini(&a);
    return 0;
}
