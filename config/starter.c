/* starter: the first configuration file of an installation: small, commented, valid as it is.
 *
 * Happy path: `reeve init` writes both texts beside each other, and the secret of the gateway into
 * `gateway.secret` there. Failure path: a buffer that is too small says so itself (`is_full`); the caller
 * looks once, at the end. */
#include "config/starter.h"

#include <string.h>

/* A scalar as YAML: plain where that is safe, else in double quotes. */
static void write_text(const char *s, struct buf *out)
{
    const char *safe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/:-";
    size_t n = strlen(s);
    if (n > 0 && strspn(s, safe) == n && s[0] != '-' && s[0] != ':' && s[n - 1] != ':') {
        (void)buf_str(out, s);
        return;
    }
    (void)buf_byte(out, '"');
    for (; *s != '\0'; s++) {
        if (*s == '"' || *s == '\\')
            (void)buf_byte(out, '\\');
        (void)buf_byte(out, *s);
    }
    (void)buf_byte(out, '"');
}

static void write_head(const struct starter_options *o, struct buf *out)
{
    (void)buf_str(
        out,
        "# Reeve's configuration. `reeve check FILE` tells what is wrong with it; SIGHUP applies it.\n"
        "# Paths are relative to this file's folder. Secrets are references: env:NAME or file:path.\n"
        "\n"
        "# Loopback only. For other machines: {address: 0.0.0.0:443, tls: {cert: cert.pem, key: key.pem}}\n"
        "listen: ");
    write_text(o->listen, out);
    (void)buf_str(out, "\n# public_url: https://reeve.example.org\ndata_dir: ");
    write_text(o->data_dir, out);
    (void)buf_str(out, "\nstore: sqlite\n"
                       "\n"
                       "# Keys of the operators (`reeve key new` prints a key and its line).\n"
                       "keys:\n"
                       "  - {name: operations, role: owner, hash: ");
    write_text(o->fleet_hash, out);
    (void)buf_str(out, "}\n\n");
}

static void write_sections(const struct starter_options *o, struct buf *out)
{
    (void)buf_str(
        out, "# Where sandboxes run.\n"
             "providers:\n"
             "  local:\n"
             "    kind: local\n"
             "    # uid_range: 200000+1000   # one uid for each sandbox, when Reeve was started by root\n"
             "\n"
             "# Where model calls go. `plain` is any gateway that reports usage in Reeve's own JSON.\n"
             "gateways:\n"
             "  main:\n"
             "    kind: plain\n"
             "    url: ");
    write_text(o->gateway_url == NULL ? "http://127.0.0.1:4000" : o->gateway_url, out);
    (void)buf_str(out, "\n"
                       "    secret: file:gateway.secret\n"
                       "\n"
                       "# What they cost. A model without a price is refused (or booked: suspense).\n"
                       "prices: {file: prices.yaml, unpriced: deny}\n"
                       "\n"
                       "# How sandboxes are made.\n"
                       "templates:\n"
                       "  coding:\n"
                       "    providers: [local]\n"
                       "    resources: {cpus: 2, memory: 4GiB, disk: 10GiB, processes: 512}\n"
                       "    network: {mode: sealed}\n"
                       "    server:\n"
                       "      agents: [claude]\n"
                       "      env: {TZ: UTC}\n"
                       "    idle: {suspend_after: 15m}\n"
                       "\n");
}

void starter_config(const struct starter_options *o, struct buf *out)
{
    write_head(o, out);
    write_sections(o, out);
    (void)buf_str(out, "# Who pays.\ntenants:\n  ");
    write_text(o->tenant, out);
    (void)buf_str(out, ":\n"
                       "    gateway: main\n"
                       "    templates: [coding]   # the first is the default\n"
                       "    keys:\n"
                       "      - {name: backend, role: owner, namespaces: [\"*\"], hash: ");
    write_text(o->owner_hash, out);
    (void)buf_str(
        out, "}\n"
             "    quotas: {workspaces: 500, running: 50, creates_per_minute: 60, namespace: {running: 10}}\n"
             "    budgets:\n"
             "      - {name: month, scope: tenant, limit: 50 USD, window: month, timezone: UTC}\n");
}

void starter_prices(struct buf *out)
{
    (void)buf_str(
        out,
        "# Prices in `currency` for a million tokens, as exact decimals. Give every change a new version.\n"
        "# These are examples: look up your provider's list, or import LiteLLM's: reeve prices import.\n"
        "currency: USD\n"
        "version: \"2026-11-01\"\n"
        "models:\n"
        "  claude-opus-4-5: {input: 5, output: 25, cache_read: 0.50, cache_write: 6.25}\n"
        "  claude-sonnet-4-5: {input: 3, output: 15, cache_read: 0.30, cache_write: 3.75}\n"
        "  claude-haiku-4-5: {input: 1, output: 5, cache_read: 0.10, cache_write: 1.25}\n"
        "  gpt-5: {input: 1.25, output: 10, cache_read: 0.125}\n");
}
