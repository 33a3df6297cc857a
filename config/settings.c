/* settings: one row for every key that the configuration file may hold, and for those that a later version
 * serves.
 *
 * Happy path: schema.c walks a file beside this table; tenancy readers take defaults from it; help and manual
 * print it. Failure path: none at run time; a key without a row does not exist. */
#include "config/settings.h"

#include <string.h>

#include "base/core/mem.h"
#include "base/net/tls.h"

#define MIB (1ull << 20)
#define DAY 86400000ull

static const struct setting rows[] = {
    {"listen", SETTING_LIST, SETTING_NONEMPTY | SETTING_RESTART | SETTING_ONE_OK, "127.0.0.1:8700", NULL,
     NULL, 1, 16, "entries",
     "Where to accept requests: an address, `{address, tls, probes}`, or a list of them."},
    {"listen[]", SETTING_LISTEN, 0, NULL, NULL, NULL, 0, 0, NULL,
     "A loopback address and port, or `unix:/path`."},
    {"listen[].address", SETTING_LISTEN, SETTING_REQUIRED, NULL, NULL, NULL, 0, 0, NULL,
     "An address and port, or `unix:/path`; one that other machines reach needs `tls`."},
    {"listen[].probes", SETTING_BOOL, 0, "false", NULL, NULL, 0, 0, NULL,
     "Serves /metrics here without a key."},
    {"listen[].tls", SETTING_LIST, SETTING_NONEMPTY | SETTING_ONE_OK, NULL, NULL, NULL, 1, TLS_PAIRS_MAX,
     "entries", "Speaks TLS: one `{cert, key}`, or a list of them for several host names."},
    {"listen[].tls[]", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL, "A certificate and its key."},
    {"listen[].tls[].cert", SETTING_PATH, SETTING_REQUIRED, NULL, NULL, NULL, 1, 1024, "bytes",
     "PEM file of the certificate and those that lead to its root; read again when it changes."},
    {"listen[].tls[].key", SETTING_PATH, SETTING_REQUIRED, NULL, NULL, NULL, 1, 1024, "bytes",
     "PEM file of its private key, without a passphrase; read again when it changes."},
    {"listen[].plain_http", SETTING_CHOICE, 0, NULL, "allowed", NULL, 0, 0, NULL,
     "`allowed`: serves other machines without TLS; whoever is on the way reads keys and prompts."},
    {"public_url", SETTING_URL, 0, NULL, NULL, NULL, 0, 1024, "bytes",
     "How clients reach Reeve; default: the first TCP listener, `https://` where it has `tls`."},
    {"preview_domain", SETTING_TEXT, SETTING_UNSUPPORTED, NULL, NULL, NULL, 0, 0, NULL,
     "The domain of browser sessions and previews."},
    {"data_dir", SETTING_PATH, SETTING_REQUIRED | SETTING_RESTART, NULL, NULL, NULL, 1, 512, "bytes",
     "Folder of the store, the homes and the sockets; made when absent."},
    {"store", SETTING_STORE, SETTING_RESTART, "sqlite", NULL, NULL, 0, 0, NULL,
     "Where records live: `sqlite`."},
    {"seal_key", SETTING_FILE_REFERENCE, SETTING_RESTART | SETTING_SECRET, NULL, NULL, NULL, 0, 0, NULL,
     "The key that seals stored secrets; made on the first start, for an empty store only; default: "
     "`seal.key` in "
     "`data_dir`."},

    {"keys", SETTING_LIST, 0, NULL, NULL, NULL, 0, 1000, "entries", "The fleet's own service keys."},
    {"keys[]", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL, "One key; `reeve key new` prints its line."},
    {"keys[].name", SETTING_NAME, SETTING_REQUIRED, NULL, NULL, NULL, 0, 0, NULL,
     "How the audit log calls it."},
    {"keys[].role", SETTING_CHOICE, SETTING_REQUIRED, NULL, "viewer member owner", NULL, 0, 0, NULL,
     "What its holder may do."},
    {"keys[].hash", SETTING_HASH, SETTING_REQUIRED | SETTING_SECRET, NULL, NULL, NULL, 0, 0, NULL,
     "SHA-256 of the whole key text."},

    {"providers", SETTING_TABLE, SETTING_REQUIRED | SETTING_NONEMPTY, NULL, NULL, NULL, 1, 64, "entries",
     "Where sandboxes run, by name."},
    {"providers.*", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL, "One provider."},
    {"providers.*.kind", SETTING_CHOICE, SETTING_REQUIRED | SETTING_RESTART, NULL, "local docker",
     "e2b daytona", 0, 0, NULL, "Which provider it is."},
    {"providers.*.agent_binary", SETTING_PATH, SETTING_RESTART, NULL, NULL, NULL, 1, 1024, "bytes",
     "The sandbox-agent server; default: beside the `reeve` binary."},
    {"providers.*.uid_range", SETTING_UID_RANGE, SETTING_RESTART, "200000+1000", NULL, NULL, 0, 0, NULL,
     "`local`: first uid and count: each sandbox gets its own when Reeve was started by root."},
    {"providers.*.endpoint", SETTING_ENGINE, SETTING_RESTART, "unix:///var/run/docker.sock", NULL, NULL, 0, 0,
     NULL, "`docker`: the engine's socket, on this host."},
    {"providers.*.api_key", SETTING_REFERENCE, SETTING_UNSUPPORTED | SETTING_SECRET, NULL, NULL, NULL, 0, 0,
     NULL, "The key of a hosted provider."},
    {"providers.*.target", SETTING_TEXT, SETTING_UNSUPPORTED, NULL, NULL, NULL, 0, 0, NULL,
     "Daytona's region."},

    {"gateways", SETTING_TABLE, 0, NULL, NULL, NULL, 0, 256, "entries", "Where model calls go, by name."},
    {"gateways.*", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL, "One gateway."},
    {"gateways.*.kind", SETTING_CHOICE, SETTING_REQUIRED, NULL, "plain litellm", "builtin", 0, 0, NULL,
     "Which dialect it speaks; `plain` is Reeve's own JSON."},
    {"gateways.*.url", SETTING_URL, SETTING_REQUIRED, NULL, NULL, NULL, 0, 1024, "bytes",
     "Its address: `https://host` or `http://host:port`, with a base path if it has one."},
    {"gateways.*.ca", SETTING_PATH, 0, NULL, NULL, NULL, 1, 1024, "bytes",
     "PEM file of the authorities that may vouch for its certificate, and no others; default: the system's."},
    {"gateways.*.secret", SETTING_REFERENCE, SETTING_REQUIRED | SETTING_SECRET, NULL, NULL, NULL, 0, 0, NULL,
     "What it presents when it reports usage."},
    {"gateways.*.admin_key", SETTING_REFERENCE, SETTING_SECRET, NULL, NULL, NULL, 0, 0, NULL,
     "LiteLLM's management key: each workspace's key is then made, blocked and revoked through its API."},
    {"gateways.*.upstreams", SETTING_MAP, SETTING_UNSUPPORTED, NULL, NULL, NULL, 0, 0, NULL,
     "Where the built-in gateway sends calls."},

    {"prices", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL, "What model calls cost."},
    {"prices.file", SETTING_LIST, SETTING_REQUIRED | SETTING_NONEMPTY | SETTING_ONE_OK, NULL, NULL, NULL, 1,
     PRICE_FILES_MAX, "entries", "The price files; the first that names a model prices it."},
    {"prices.file[]", SETTING_PATH, 0, NULL, NULL, NULL, 1, 1024, "bytes", "One price file."},
    {"prices.unpriced", SETTING_CHOICE, 0, "deny", "deny suspense", NULL, 0, 0, NULL,
     "What becomes of a model without a price: refused, or booked in suspense."},

    {"network_sets", SETTING_TABLE, 0, NULL, NULL, NULL, 0, 256, "entries",
     "Lists of what sandboxes may reach, by name, for several templates."},
    {"network_sets.*", SETTING_LIST, SETTING_NONEMPTY, NULL, NULL, NULL, 1, 1000, "entries", "One list."},
    {"network_sets.*[]", SETTING_RULE, 0, NULL, NULL, NULL, 0, 0, NULL, "An entry as under `templates`."},
    {"egress", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL, "The way out of all sandboxes."},
    {"egress.allow_private", SETTING_LIST, 0, NULL, NULL, NULL, 0, 1000, "entries",
     "Addresses that are not public and may be reached all the same, where a list allows them."},
    {"egress.allow_private[]", SETTING_EXEMPTION, 0, NULL, NULL, NULL, 0, 0, NULL,
     "`CIDR:port`. Never Reeve's own listeners, gateways, or a cloud's metadata."},
    {"egress.loopback_exempt_ports", SETTING_LIST, 0, NULL, NULL, NULL, 0, 1000, "entries",
     "Ports of this machine's own loopback that may be reached, where a list allows them."},
    {"egress.loopback_exempt_ports[]", SETTING_PORT, 0, NULL, NULL, NULL, 0, 0, NULL, "A port."},
    {"egress.tls_ports", SETTING_LIST, SETTING_NONEMPTY, "443", NULL, NULL, 1, 100, "entries",
     "Ports on which a tunnel must begin with TLS, unless `sni` is `ignore`."},
    {"egress.tls_ports[]", SETTING_PORT, 0, NULL, NULL, NULL, 0, 0, NULL, "A port."},
    {"resolve", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL, "How names of the way out are resolved."},
    {"resolve.servers", SETTING_LIST, SETTING_NONEMPTY, NULL, NULL, NULL, 1, 8, "entries",
     "Name servers; absent: those of the system."},
    {"resolve.servers[]", SETTING_SERVER, 0, NULL, NULL, NULL, 0, 0, NULL, "Address and port."},
    {"resolve.timeout", SETTING_DURATION, 0, "5s", NULL, NULL, 100, 60000, "ms",
     "How long a look-up may take."},

    {"templates", SETTING_TABLE, SETTING_REQUIRED | SETTING_NONEMPTY, NULL, NULL, NULL, 1, 1000, "entries",
     "How sandboxes are made, by name."},
    {"templates.*", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL, "One template."},
    {"templates.*.providers", SETTING_LIST, SETTING_REQUIRED | SETTING_NONEMPTY, NULL, NULL, NULL, 1, 64,
     "entries", "Providers in order of preference, for the first create."},
    {"templates.*.providers[]", SETTING_NAME, 0, NULL, NULL, NULL, 0, 0, NULL, "A name under `providers`."},
    {"templates.*.image", SETTING_TEXT, 0, NULL, NULL, NULL, 1, 512, "bytes",
     "The image, for providers that use one (`local` does not)."},
    {"templates.*.resources", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL,
     "Limits of one sandbox; absent: none."},
    {"templates.*.resources.cpus", SETTING_CPUS, 0, NULL, NULL, NULL, 10, 1024000, "thousandths",
     "Processors."},
    {"templates.*.resources.memory", SETTING_SIZE, 0, NULL, NULL, NULL, 16 * MIB, MIB *MIB * 16, "bytes",
     "Memory."},
    {"templates.*.resources.disk", SETTING_SIZE, 0, NULL, NULL, NULL, 16 * MIB, MIB *MIB * 16, "bytes",
     "Size of the home volume."},
    {"templates.*.resources.processes", SETTING_COUNT, 0, NULL, NULL, NULL, 16, 4194304, NULL,
     "Processes and threads."},
    {"templates.*.network", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL, "What a sandbox may reach."},
    {"templates.*.network.mode", SETTING_CHOICE, 0, "sealed", "sealed", "bridge", 0, 0, NULL,
     "`sealed`: no network but Reeve's door."},
    {"templates.*.network.allow", SETTING_LIST, 0, NULL, NULL, NULL, 0, 1000, "entries",
     "What the way out lets through; absent: nothing."},
    {"templates.*.network.allow[]", SETTING_RULE, 0, NULL, NULL, NULL, 0, 0, NULL,
     "`host:port`, `*.suffix:port`, `CIDR:port` or `any-public:port`; ports as `443`, `80,443`, "
     "`8000-8010`."},
    {"templates.*.network.sets", SETTING_LIST, 0, NULL, NULL, NULL, 0, 100, "entries",
     "Named sets that are allowed as well."},
    {"templates.*.network.sets[]", SETTING_NAME, 0, NULL, NULL, NULL, 0, 0, NULL,
     "A name under `network_sets`."},
    {"templates.*.network.sni", SETTING_CHOICE, 0, "require", "require allow-missing ignore", NULL, 0, 0,
     NULL, "Whether the name in a tunnel's TLS hello must be there and be the one that was asked for."},
    {"templates.*.network.limits", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL,
     "How much one workspace may send and receive."},
    {"templates.*.network.limits.tunnels", SETTING_COUNT, 0, "128", NULL, NULL, 1, 100000, NULL,
     "Connections open at one time."},
    {"templates.*.network.limits.new_per_second", SETTING_COUNT, 0, "50", NULL, NULL, 1, 100000, NULL,
     "New connections in a second; twice as many at once."},
    {"templates.*.network.limits.bytes_per_second", SETTING_SIZE, 0, NULL, NULL, NULL, 1024, MIB *MIB,
     "bytes", "Bytes of both directions in a second; absent: no limit."},
    {"templates.*.network.limits.bytes", SETTING_SIZE, 0, NULL, NULL, NULL, 1024, MIB *MIB * 1024, "bytes",
     "Bytes of both directions in a window; absent: no limit."},
    {"templates.*.network.limits.window", SETTING_DURATION, 0, "1d", NULL, NULL, 1000, 31 * DAY, "ms",
     "The window of `bytes`; windows begin at multiples of it since 1970."},
    {"templates.*.network.limits.idle", SETTING_DURATION, 0, "10m", NULL, NULL, 1000, DAY, "ms",
     "Ends a connection that nothing passes for so long."},
    {"templates.*.server", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL, "The sandbox-agent server."},
    {"templates.*.server.agents", SETTING_LIST, 0, NULL, NULL, NULL, 0, 64, "entries",
     "Agents to have ready."},
    {"templates.*.server.agents[]", SETTING_NAME, 0, NULL, NULL, NULL, 0, 0, NULL,
     "An agent, such as `claude`."},
    {"templates.*.server.env", SETTING_TABLE, 0, NULL, NULL, NULL, 0, 256, "entries",
     "Environment of the server; not `*_API_KEY`, `*_BASE_URL`, `LD_*`, `REEVE_*`."},
    {"templates.*.server.env.*", SETTING_ENV, 0, NULL, NULL, NULL, 0, 32768, "bytes",
     "One value, taken literally."},
    {"templates.*.idle", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL,
     "What happens to one that nobody uses."},
    {"templates.*.idle.suspend_after", SETTING_DURATION, 0, NULL, NULL, NULL, 1000, 365 * DAY, "ms",
     "Suspends it after this time; absent: never."},
    {"templates.*.idle.suspend", SETTING_CHOICE, 0, "stop", "stop freeze", NULL, 0, 0, NULL,
     "How it is suspended, also when somebody asks for it: `stop` ends its processes and frees their memory, "
     "`freeze` keeps them where the provider can (`docker`), and wakes at once."},
    {"templates.*.idle.delete_after", SETTING_DURATION, SETTING_UNSUPPORTED, NULL, NULL, NULL, 0, 0, NULL,
     "Deletes it after this time."},
    {"templates.*.warm", SETTING_COUNT, SETTING_UNSUPPORTED, NULL, NULL, NULL, 0, 0, NULL,
     "Sandboxes kept ready in advance."},

    {"tenants", SETTING_TABLE, SETTING_REQUIRED | SETTING_NONEMPTY, NULL, NULL, NULL, 1, 10000, "entries",
     "Who pays, by name."},
    {"tenants.*", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL, "One tenant."},
    {"tenants.*.gateway", SETTING_NAME, 0, NULL, NULL, NULL, 0, 0, NULL,
     "A name under `gateways`; absent: none."},
    {"tenants.*.templates", SETTING_LIST, SETTING_REQUIRED | SETTING_NONEMPTY, NULL, NULL, NULL, 1, 1000,
     "entries", "Templates it may use; the first is its default."},
    {"tenants.*.templates[]", SETTING_NAME, 0, NULL, NULL, NULL, 0, 0, NULL, "A name under `templates`."},
    {"tenants.*.network", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL,
     "Narrows what its templates let its sandboxes reach."},
    {"tenants.*.network.allow", SETTING_LIST, 0, NULL, NULL, NULL, 0, 1000, "entries",
     "What must also be on this list; absent: what the template allows."},
    {"tenants.*.network.allow[]", SETTING_RULE, 0, NULL, NULL, NULL, 0, 0, NULL,
     "An entry as under `templates`."},
    {"tenants.*.network.limits", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL,
     "How much all its workspaces together may send and receive; absent: no limit."},
    {"tenants.*.network.limits.tunnels", SETTING_COUNT, 0, NULL, NULL, NULL, 1, 1000000, NULL,
     "Connections open at one time."},
    {"tenants.*.network.limits.new_per_second", SETTING_COUNT, 0, NULL, NULL, NULL, 1, 1000000, NULL,
     "New connections in a second; twice as many at once."},
    {"tenants.*.network.limits.bytes_per_second", SETTING_SIZE, 0, NULL, NULL, NULL, 1024, MIB *MIB, "bytes",
     "Bytes of both directions in a second."},
    {"tenants.*.network.limits.bytes", SETTING_SIZE, 0, NULL, NULL, NULL, 1024, MIB *MIB * 1024, "bytes",
     "Bytes of both directions in a window."},
    {"tenants.*.network.limits.window", SETTING_DURATION, 0, "1d", NULL, NULL, 1000, 31 * DAY, "ms",
     "The window of `bytes`."},
    {"tenants.*.users", SETTING_MAP, SETTING_UNSUPPORTED, NULL, NULL, NULL, 0, 0, NULL, "Users by JWT."},
    {"tenants.*.alerts", SETTING_LIST, SETTING_UNSUPPORTED, NULL, NULL, NULL, 0, 0, NULL,
     "Webhooks for alerts."},
    {"tenants.*.keys", SETTING_LIST, 0, NULL, NULL, NULL, 0, 1000, "entries", "The tenant's service keys."},
    {"tenants.*.keys[]", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL,
     "One key; `reeve key new` prints its line."},
    {"tenants.*.keys[].name", SETTING_NAME, SETTING_REQUIRED, NULL, NULL, NULL, 0, 0, NULL,
     "How the audit log calls it."},
    {"tenants.*.keys[].role", SETTING_CHOICE, SETTING_REQUIRED, NULL, "viewer member owner", NULL, 0, 0, NULL,
     "What its holder may do."},
    {"tenants.*.keys[].namespaces", SETTING_LIST, SETTING_NONEMPTY, "*", NULL, NULL, 1, 1000, "entries",
     "Namespaces it is good for; `\"*\"`: all."},
    {"tenants.*.keys[].namespaces[]", SETTING_NAMESPACE, 0, NULL, NULL, NULL, 0, 0, NULL,
     "A namespace, or `\"*\"`."},
    {"tenants.*.keys[].hash", SETTING_HASH, SETTING_REQUIRED | SETTING_SECRET, NULL, NULL, NULL, 0, 0, NULL,
     "SHA-256 of the whole key text."},
    {"tenants.*.quotas", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL,
     "How much it may have; absent: no limit."},
    {"tenants.*.quotas.workspaces", SETTING_COUNT, 0, NULL, NULL, NULL, 1, 10000000, NULL,
     "Workspaces of any state."},
    {"tenants.*.quotas.running", SETTING_COUNT, 0, NULL, NULL, NULL, 1, 10000000, NULL,
     "Running at one time."},
    {"tenants.*.quotas.creates_per_minute", SETTING_COUNT, 0, NULL, NULL, NULL, 1, 1000000, NULL,
     "New workspaces in a minute."},
    {"tenants.*.quotas.namespace", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL,
     "The same for each namespace."},
    {"tenants.*.quotas.namespace.running", SETTING_COUNT, 0, NULL, NULL, NULL, 1, 10000000, NULL,
     "Running at one time in one namespace."},
    {"tenants.*.budgets", SETTING_LIST, 0, NULL, NULL, NULL, 0, 100, "entries",
     "Limits on what it may spend."},
    {"tenants.*.budgets[]", SETTING_MAP, 0, NULL, NULL, NULL, 0, 0, NULL, "One budget."},
    {"tenants.*.budgets[].name", SETTING_NAME, SETTING_REQUIRED, NULL, NULL, NULL, 0, 0, NULL, "Its name."},
    {"tenants.*.budgets[].scope", SETTING_CHOICE, SETTING_REQUIRED, NULL, "tenant namespace",
     "workspace user", 0, 0, NULL, "What it is counted for: the tenant, or each namespace."},
    {"tenants.*.budgets[].limit", SETTING_MONEY, SETTING_REQUIRED, NULL, NULL, NULL, 0, 0, NULL,
     "At most this amount in a window."},
    {"tenants.*.budgets[].window", SETTING_CHOICE, SETTING_REQUIRED, NULL, "day week month", NULL, 0, 0, NULL,
     "How long it counts before it begins anew; weeks begin on Monday."},
    {"tenants.*.budgets[].timezone", SETTING_ZONE, 0, "UTC", NULL, NULL, 0, 0, NULL,
     "IANA time zone in which windows begin at midnight."},
    {"tenants.*.budgets[].at_limit", SETTING_CHOICE, 0, "block", "block", "suspend", 0, 0, NULL,
     "What happens at the limit: no workspace is made or woken, no call admitted."},
    {"tenants.*.budgets[].alert", SETTING_LIST, SETTING_UNSUPPORTED, NULL, NULL, NULL, 0, 0, NULL,
     "Shares of the limit at which to warn."},
};

static const struct type_name {
    const char *name, *sample;
} type_names[] = {
    [SETTING_MAP] = {"a map", NULL},
    [SETTING_TABLE] = {"a map of names", NULL},
    [SETTING_LIST] = {"a list", NULL},
    [SETTING_TEXT] = {"text", NULL},
    [SETTING_NAME] = {"a name", "coding"},
    [SETTING_BOOL] = {"`true` or `false`", "true"},
    [SETTING_COUNT] = {"a whole number", "50"},
    [SETTING_CPUS] = {"a number of processors", "0.5"},
    [SETTING_SIZE] = {"a size", "4GiB"},
    [SETTING_DURATION] = {"a duration", "15m"},
    [SETTING_MONEY] = {"an amount", "500 USD"},
    [SETTING_CHOICE] = {"a word", NULL},
    [SETTING_LISTEN] = {"an address", "127.0.0.1:8700"},
    [SETTING_URL] = {"a URL", "https://reeve.example.org"},
    [SETTING_STORE] = {"a store", "sqlite"},
    [SETTING_PATH] = {"a path", "data"},
    [SETTING_REFERENCE] = {"a reference", "env:NAME"},
    [SETTING_FILE_REFERENCE] = {"a reference", "file:seal.key"},
    [SETTING_HASH] = {"a hash", "sha256:<64 hex digits>"},
    [SETTING_ENGINE] = {"a unix socket", "unix:///var/run/docker.sock"},
    [SETTING_UID_RANGE] = {"a range of uids", "200000+1000"},
    [SETTING_ZONE] = {"a time zone", "Europe/Berlin"},
    [SETTING_NAMESPACE] = {"a namespace", "alice"},
    [SETTING_ENV] = {"text", NULL},
    [SETTING_RULE] = {"a host and ports", "example.org:443"},
    [SETTING_EXEMPTION] = {"a range of addresses and ports", "10.20.0.0/16:5432"},
    [SETTING_PORT] = {"a port", "8080"},
    [SETTING_SERVER] = {"an address and port", "127.0.0.1:53"},
};

const struct setting *settings(size_t *n)
{
    *n = ARRAY_LEN(rows);
    return rows;
}

const struct setting *setting_find(const char *path)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (strcmp(rows[i].path, path) == 0)
            return &rows[i];
    return NULL;
}

const char *setting_type_name(enum setting_type t)
{
    return type_names[t].name;
}

const char *setting_type_sample(enum setting_type t)
{
    return type_names[t].sample;
}

static void print_type(const struct setting *s, struct buf *out)
{
    if (s->type != SETTING_CHOICE) {
        (void)buf_str(out, type_names[s->type].name); /* a full buffer says so itself, here and below */
        return;
    }
    struct slice rest = slice_str(s->choices), word;
    bool is_more;
    do {
        is_more = slice_cut(&rest, ' ', &word);
        (void)buf_printf(out, "`%.*s`%s", SL_ARG(word), is_more ? ", " : "");
    } while (is_more);
}

static void print_fallback(const struct setting *s, struct buf *out)
{
    if (s->flags & SETTING_REQUIRED)
        (void)buf_str(out, "required");
    else if (s->fallback != NULL)
        (void)buf_printf(out, "`%s`", s->fallback);
}

void settings_print(bool markdown, struct buf *out)
{
    if (markdown)
        (void)buf_str(out, "| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct setting *s = &rows[i];
        if (s->flags & SETTING_UNSUPPORTED)
            continue;
        (void)buf_printf(out, markdown ? "| `%s` | " : "%s\n    ", s->path);
        print_type(s, out);
        (void)buf_str(out, markdown ? " | " : "; ");
        print_fallback(s, out);
        if (!markdown && ((s->flags & SETTING_REQUIRED) || s->fallback != NULL))
            (void)buf_str(out, "; ");
        (void)buf_printf(out, markdown ? " | %s" : "%s", s->help);
        if (s->flags & SETTING_RESTART)
            (void)buf_str(out, " Takes effect after a restart.");
        (void)buf_str(out, markdown ? " |\n" : "\n");
    }
}
