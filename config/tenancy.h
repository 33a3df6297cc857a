/* tenancy: one immutable, validated picture of the configuration file. Reload makes a new one; holders of the
 * old one keep it until they let go. Slices and pointers live in its arena. Not thread-safe: loop thread
 * only. */
#ifndef REEVE_CONFIG_TENANCY_H
#define REEVE_CONFIG_TENANCY_H

#include "base/core/crypto.h"
#include "base/core/i128.h"
#include "config/network_rules.h"
#include "config/yaml.h"

enum role { ROLE_NONE, ROLE_VIEWER, ROLE_MEMBER, ROLE_OWNER };
const char *role_name(enum role r);
int role_parse(struct slice s, enum role *ret); /* 0 or E_INVALID */

struct config_tls { /* a certificate and its key: the files, and their texts, checked */
    struct slice cert_file, key_file;
    struct slice cert_pem, key_pem;
};

struct config_listen {
    struct slice address; /* "127.0.0.1:8700" (port 0: any), "unix:/absolute/path" */
    bool probes;          /* /metrics without a key */
    bool plain_http;      /* allowed for other machines */
    struct config_tls *tls;
    size_t n_tls; /* 0: plain HTTP */
};

struct config_key { /* a service key named in the file */
    struct slice name;
    enum role role;
    unsigned char hash[SHA256_BYTES]; /* of the whole key text */
    struct slice *namespaces;         /* "*" alone: all; fleet keys: all */
    size_t n_namespaces;
};

enum provider_kind { PROVIDER_LOCAL, PROVIDER_DOCKER, PROVIDER_E2B, PROVIDER_DAYTONA };
const char *provider_kind_name(enum provider_kind k);
struct config_provider {
    struct slice name;
    enum provider_kind kind;
    struct slice agent_binary;     /* path of the sandbox-agent server; default: beside the reeve binary */
    uint32_t uid_first, uid_count; /* local: own uids when started by root; default 200000, 1000 */
    struct slice endpoint;         /* docker: "unix:///path" of the engine's socket */
};

enum gateway_kind { GATEWAY_BUILTIN, GATEWAY_LITELLM, GATEWAY_PLAIN };
struct config_gateway {
    struct slice name;
    enum gateway_kind kind;
    struct slice url;       /* http or https://host[:port][/base]; without trailing '/' */
    struct slice ca_pem;    /* who may vouch for it: the file's text, checked; empty: the system's */
    struct slice secret;    /* resolved; what the gateway presents to us */
    struct slice admin_key; /* resolved; of LiteLLM's management API; n 0: keys are not made there */
};

enum network_sni { SNI_REQUIRE, SNI_ALLOW_MISSING, SNI_IGNORE };
struct config_egress_limits { /* 0: no limit */
    uint64_t tunnels, new_per_second, bytes_per_second;
    uint64_t window_bytes; /* in window_ms */
    int64_t window_ms, idle_ms;
};

struct config_template {
    struct slice name;
    const struct config_provider **providers; /* in order of preference, at least one */
    size_t n_providers;
    struct slice image;
    i128 cpus_milli;       /* 2 = 2000; 0: no limit */
    uint64_t memory_bytes; /* 0: no limit */
    uint64_t disk_bytes;
    uint64_t processes;
    struct slice network_mode; /* "sealed" */
    struct network_rules network_allow;
    unsigned network_line; /* of `network`, or of the template without one */
    enum network_sni sni;
    struct config_egress_limits egress_limits; /* of each workspace */
    struct slice *agents;
    size_t n_agents;
    struct {
        struct slice name, value;
    } * env;
    size_t n_env;
    int64_t suspend_after_ms; /* 0: never */
    bool suspend_freezes;     /* where the provider can; else it is stopped */
};

enum budget_at_limit { AT_LIMIT_BLOCK };
enum budget_window { WINDOW_DAY, WINDOW_WEEK, WINDOW_MONTH };
enum budget_scope { SCOPE_TENANT, SCOPE_NAMESPACE };
struct config_budget {
    struct slice name;
    enum budget_scope scope;
    i128 limit;       /* 1e-18 units of currency */
    char currency[4]; /* ISO 4217, NUL-terminated */
    enum budget_window window;
    struct slice timezone; /* IANA name; "UTC" */
    enum budget_at_limit at_limit;
};

struct config_tenant {
    struct slice name;
    char id[16];                              /* opaque: 12 characters of [a-z2-7], from the name's SHA-256 */
    const struct config_gateway *gateway;     /* NULL: none */
    const struct config_template **templates; /* the first is the default */
    size_t n_templates;
    struct config_key *keys;
    size_t n_keys;
    struct config_budget *budgets;
    size_t n_budgets;
    uint64_t quota_workspaces, quota_running, quota_creates_per_minute; /* 0: no limit */
    uint64_t quota_namespace_running;
    bool narrows_network; /* network_allow is given, maybe empty */
    struct network_rules network_allow;
    unsigned network_line;                     /* as in a template */
    struct config_egress_limits egress_limits; /* of all its workspaces together */
};

struct config_network_set {
    struct slice name;
    struct network_rules rules;
};

struct config_egress {
    struct network_rules exempt; /* addresses that are not public and may be reached */
    uint16_t *tls_ports;
    size_t n_tls_ports;
};

struct config_resolve {
    struct slice servers; /* "127.0.0.1:53,[::1]:53"; empty: the system's */
    int64_t timeout_ms;
};

struct config_price_file {
    struct slice path;      /* resolved, NUL-terminated */
    struct yaml_node *root; /* parsed; billing reads it */
};
struct config_prices {
    struct config_price_file *files; /* the first that names a model prices it */
    size_t n_files;
    bool deny_unpriced; /* else: to suspense */
};

struct tenancy {
    unsigned refs;
    struct arena arena;
    struct slice file; /* path it was read from */
    struct config_listen *listen;
    size_t n_listen;
    struct slice
        public_url; /* without trailing '/'; empty when not given and the first TCP listener has port 0 */
    struct slice data_dir;      /* absolute */
    struct slice store;         /* "sqlite" or "redis://..." */
    struct slice seal_key_file; /* resolved path */
    struct config_key *keys;    /* the fleet's */
    size_t n_keys;
    struct config_provider *providers;
    size_t n_providers;
    struct config_gateway *gateways;
    size_t n_gateways;
    struct config_template *templates;
    size_t n_templates;
    struct config_tenant *tenants;
    size_t n_tenants;
    struct config_prices prices;
    struct config_network_set *network_sets;
    size_t n_network_sets;
    struct config_egress egress;
    struct config_resolve resolve;
    struct tenancy_index *index; /* look-ups by name and hash */
};

/* A variable's name: [A-Za-z_][A-Za-z0-9_]*, at most 256 bytes. */
bool env_name_is_valid(struct slice name);
/* Why templates and callers may not set this variable (`*_API_KEY`, `*_BASE_URL`, `LD_*`, `REEVE_*`, not a
 * name): a sentence; NULL when they may. */
const char *env_name_refused(struct slice name);

/* Reads, resolves (`env:`, `file:` relative to the file's folder) and validates everything, then gives a
 * tenancy with one reference, or E_INVALID with all problems. Secrets never appear in problems. Blocks
 * (files): call it at start, from commands, and on reload (small files on a local disk). */
int tenancy_load(const char *path, struct config_problems *problems, struct tenancy **ret);
/* The same from a text that is already read; `path` names it and its folder. */
int tenancy_parse(const char *path, struct slice text, struct config_problems *problems,
                  struct tenancy **ret);
struct tenancy *tenancy_ref(struct tenancy *t);
void tenancy_unref(struct tenancy *t); /* the last one wipes secrets and frees */

const struct config_tenant *tenancy_tenant(const struct tenancy *t, struct slice name);
const struct config_tenant *tenancy_tenant_by_id(const struct tenancy *t, struct slice id);
const struct config_gateway *tenancy_gateway(const struct tenancy *t, struct slice name);
const struct config_provider *tenancy_provider(const struct tenancy *t, struct slice name);
const struct config_template *tenancy_template(const struct tenancy *t, struct slice name);
/* The tenant's template of that name, or its first when `name` is empty; NULL when it has none such. */
const struct config_template *tenant_template(const struct config_tenant *t, struct slice name);
/* Finds a service key by SHA-256 of its text (constant work per probe: hash table). *ret_tenant is NULL for
 * the fleet's. */
const struct config_key *tenancy_key(const struct tenancy *t, const unsigned char hash[SHA256_BYTES],
                                     const struct config_tenant **ret_tenant);
/* What differs between the two and takes effect only after a restart (listen, data_dir, store, seal_key,
 * providers' kinds): a sentence for each into `out`, separated by newlines; empty when all is live. */
void tenancy_restart_diff(const struct tenancy *old, const struct tenancy *now, struct buf *out);

#endif
