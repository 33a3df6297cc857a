/* listen: where to accept requests, with which certificates, and how clients reach Reeve.
 *
 * Happy path: each listener's files are read and checked together with the rest of the configuration, and
 * their texts kept. Failure paths: an address that other machines reach without TLS, because the traffic
 * carries credentials, unless it is said in plain words; certificates and keys that cannot be read or do not
 * belong together; addresses that stand twice: a problem each. */
#include "config/build.h"

#include "base/core/certificate.h"
#include "config/address.h"
#include "config/settings.h"
#include "config/value.h"

static void read_pair(struct build *b, const struct yaml_node *n, struct config_tls *ret)
{
    const struct yaml_node *cert = node_child(n, "listen[].tls[].cert", YAML_SCALAR),
                           *key = node_child(n, "listen[].tls[].key", YAML_SCALAR);
    STACK_OF(X509) *chain = NULL;
    EVP_PKEY *pkey = NULL;
    struct err err = {0};
    ret->cert_pem = build_file(b, cert, "listen[].tls[].cert", CERTIFICATE_FILE_MAX);
    ret->key_pem = build_file(b, key, "listen[].tls[].key", CERTIFICATE_FILE_MAX);
    if (ret->cert_pem.p == NULL || ret->key_pem.p == NULL)
        return; /* absent or reported */
    ret->cert_file = source_path(b->source, &b->t->arena, cert->text);
    ret->key_file = source_path(b->source, &b->t->arena, key->text);
    bool is_cert = certificates_parse(ret->cert_pem, &chain, &err) == 0;
    certificates_free(chain);
    if (!is_cert) {
        source_complain(b->source, cert, NULL, "`%s`: %s", SHOW(cert->text), err.msg);
        return;
    }
    if (certificate_pair_parse(ret->cert_pem, ret->key_pem, &chain, &pkey, &err) != 0) {
        source_complain(b->source, key, NULL, "`%s`: %s", SHOW(key->text), err.msg);
        return;
    }
    certificates_free(chain);
    EVP_PKEY_free(pkey);
}

static void read_tls(struct build *b, const struct yaml_node *n, struct config_listen *ret)
{
    if (n == NULL || n->is_bad)
        return;
    size_t count = n->kind == YAML_LIST ? n->count : 1;
    if (count > setting_find("listen[].tls")->max)
        return; /* reported */
    ret->tls = arena_zalloc(&b->t->arena, (count + 1) * sizeof(*ret->tls));
    if (n->kind == YAML_MAP)
        read_pair(b, n, &ret->tls[ret->n_tls++]);
    else if (n->kind == YAML_LIST)
        YAML_FOREACH (it, n)
            read_pair(b, it, &ret->tls[ret->n_tls++]);
}

static void check_reach(struct build *b, const struct yaml_node *n, const struct config_listen *l)
{
    bool is_tls = n->kind == YAML_MAP && yaml_get(n, "tls") != NULL; /* as it was meant */
    if (is_tls && slice_starts(l->address, SL("unix:")))
        source_complain(b->source, n, NULL, "`tls` is of no use on a unix socket");
    else if (is_tls && l->plain_http)
        source_complain(b->source, n, NULL, "`plain_http` and `tls` exclude each other");
    else if (!is_tls && !l->plain_http && !listen_is_local(l->address))
        source_complain(
            b->source, n, NULL,
            "`%s`: other machines could reach this address without TLS: give it `tls: {cert, key}`, "
            "listen on 127.0.0.1, [::1] or unix:/path behind a TLS proxy, or say `plain_http: allowed`",
            SHOW(l->address));
}

static void read_listen(struct build *b, const struct yaml_node *n, struct config_listen *ret)
{
    struct slice text = SLICE_NULL;
    if (n->kind == YAML_SCALAR) {
        text = n->text;
    } else if (n->kind == YAML_MAP) {
        text = node_text(n, "listen[].address");
        (void)value_bool(node_text(n, "listen[].probes"), &ret->probes); /* reported when it is neither */
        ret->plain_http = node_text(n, "listen[].plain_http").p != NULL;
        read_tls(b, yaml_get(n, "tls"), ret);
    }
    if (text.p == NULL || listen_check(text, NULL) != 0)
        return; /* reported */
    ret->address = text;
    check_reach(b, n, ret);
    if (slice_starts(text, SL("unix:"))) {
        struct slice path = source_path(b->source, &b->t->arena, slice_from(text, 5));
        ret->address = slice_str(arena_printf(&b->t->arena, "unix:%.*s", SL_ARG(path)));
        if (listen_check(ret->address, NULL) != 0)
            source_complain(b->source, n, NULL,
                            "`%s`: with its folder the path is too long for a unix socket", SHOW(text));
    }
    if (slice_ends(ret->address, SL(":0")))
        return; /* any port: two of them differ */
    for (const struct config_listen *before = b->t->listen; before < ret; before++)
        if (before->address.p != NULL && slice_eq(before->address, ret->address))
            source_complain(b->source, n, NULL, "`%s` stands twice in `listen`", SHOW(text));
}

static void build_public_url(struct build *b)
{
    struct slice url = node_text(b->root, "public_url");
    if (url.p != NULL) {
        (void)url_check(url, &b->t->public_url, NULL); /* reported when it is none */
        return;
    }
    b->t->public_url = SLICE_EMPTY;
    for (size_t i = 0; i < b->t->n_listen; i++) {
        const struct config_listen *l = &b->t->listen[i];
        if (l->address.p == NULL || slice_starts(l->address, SL("unix:")))
            continue;
        if (listen_is_any(l->address) && (l->n_tls > 0 || l->plain_http))
            source_complain(
                b->source, b->root, NULL,
                "`public_url` is missing: with a listener on all addresses, Reeve cannot tell its own "
                "URL");
        else if (!slice_ends(l->address, SL(":0")))
            b->t->public_url = slice_str(
                arena_printf(&b->t->arena, "http%s://%.*s", l->n_tls > 0 ? "s" : "", SL_ARG(l->address)));
        return;
    }
    if (b->t->n_listen > 0 && b->t->listen[0].address.p != NULL)
        source_complain(b->source, b->root, NULL,
                        "`public_url` is missing: with unix sockets alone, Reeve cannot tell its own URL");
}

void build_listen(struct build *b)
{
    struct yaml_node standard = {.kind = YAML_SCALAR};
    const struct yaml_node *n = yaml_get(b->root, "listen");
    if (n == NULL) {
        standard.text = slice_str(setting_find("listen")->fallback);
        n = &standard;
    }
    size_t count = n->kind == YAML_LIST ? n->count : 1;
    b->t->listen = arena_zalloc(&b->t->arena, (count + 1) * sizeof(*b->t->listen));
    if (n->kind != YAML_LIST)
        read_listen(b, n, &b->t->listen[b->t->n_listen++]);
    else
        YAML_FOREACH (it, n)
            read_listen(b, it, &b->t->listen[b->t->n_listen++]);
    build_public_url(b);
}
