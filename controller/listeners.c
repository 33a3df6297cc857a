/* listeners: see listeners.h.
 *
 * Happy path: files of certificates and keys are looked at every second, off the loop (uv_fs_poll); a moment
 * after the last change all of that listener are read and put in force together, without a connection being
 * touched. Failure paths: what cannot be read, does not belong together or has expired is refused in the log
 * and the former stays in force, until the files change again. */
#include "controller/listeners.h"

#include "base/core/certificate.h"
#include "base/core/crypto.h"
#include "base/core/log.h"
#include "base/core/mem.h"
#include "config/source.h"

#include <string.h>

#define LOOK_MS 1000
#define SETTLE_MS                                                                                            \
    500 /* certificate and key are two files: a change of one is often followed by the other's */

struct entry;

/* One file that is looked at. */
struct watch {
    uv_fs_poll_t poll;
    struct entry *entry;
};

struct entry {
    struct listeners *all;
    char *address;
    size_t at; /* in the configuration of the start */
    struct tls_server *tls;
    struct config_tls files[TLS_PAIRS_MAX]; /* paths owned; texts NULL */
    size_t n_files;
    unsigned char in_force[SHA256_BYTES]; /* of all texts */
    int64_t expires_s;
    struct watch *watches[2 * TLS_PAIRS_MAX];
    size_t n_watches;
    struct timer *settle;
};

struct listeners {
    struct loop *loop;
    struct entry *entries; /* those with TLS */
    size_t n_entries;
    struct listeners_stats stats;
};

/* --- putting certificates in force --- */

static void texts_hash(const struct config_tls *tls, size_t n, unsigned char out[SHA256_BYTES])
{
    unsigned char parts[2 * TLS_PAIRS_MAX * SHA256_BYTES];
    for (size_t i = 0; i < n; i++) {
        sha256(tls[i].cert_pem, parts + 2 * i * SHA256_BYTES);
        sha256(tls[i].key_pem, parts + (2 * i + 1) * SHA256_BYTES);
    }
    sha256(slice_of(parts, 2 * n * SHA256_BYTES), out);
}

/* When the first of them expires; *ret_expired names one that has. */
static int64_t first_expiry(const struct config_tls *tls, size_t n, const struct config_tls **ret_expired)
{
    int64_t first = INT64_MAX;
    *ret_expired = NULL;
    for (size_t i = 0; i < n; i++) {
        STACK_OF(X509) *chain = NULL;
        struct tm tm;
        if (certificates_parse(tls[i].cert_pem, &chain, NULL) != 0)
            continue; /* tls_server_replace tells */
        const X509 *cert = sk_X509_value(chain, 0);
        if (certificate_is_expired(cert))
            *ret_expired = &tls[i];
        if (ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) == 1 && timegm(&tm) < first)
            first = timegm(&tm);
        certificates_free(chain);
    }
    return first == INT64_MAX ? 0 : first;
}

static void expiry_note(struct listeners *ls)
{
    ls->stats.expires_s = 0;
    for (size_t i = 0; i < ls->n_entries; i++) {
        int64_t at = ls->entries[i].expires_s;
        if (at != 0 && (ls->stats.expires_s == 0 || at < ls->stats.expires_s))
            ls->stats.expires_s = at;
    }
}

/* E_EXISTS: they are in force already. */
static int entry_put(struct entry *e, const struct config_tls *tls, size_t n, bool is_start, struct err *err)
{
    struct tls_pair pairs[TLS_PAIRS_MAX];
    unsigned char hash[SHA256_BYTES];
    const struct config_tls *expired;
    texts_hash(tls, n, hash);
    if (e->tls != NULL && memcmp(hash, e->in_force, sizeof hash) == 0)
        return E_EXISTS;
    int64_t expires_s = first_expiry(tls, n, &expired);
    if (expired != NULL && !is_start)
        return err_set(err, E_INVALID, "the certificate has expired: %.*s", SL_ARG(expired->cert_file));
    if (expired != NULL)
        log_warn("listener.certificate_expired", LF_STR("address", e->address),
                 LF_SLICE("file", expired->cert_file));
    for (size_t i = 0; i < n; i++)
        pairs[i] = (struct tls_pair){tls[i].cert_pem, tls[i].key_pem};
    int code =
        e->tls == NULL ? tls_server_new(pairs, n, &e->tls, err) : tls_server_replace(e->tls, pairs, n, err);
    if (code != 0)
        return code;
    memcpy(e->in_force, hash, sizeof hash);
    e->expires_s = expires_s;
    expiry_note(e->all);
    return 0;
}

static void entry_change(struct entry *e, const struct config_tls *tls, size_t n)
{
    struct err err = {0};
    int code = entry_put(e, tls, n, false, &err);
    if (code == E_EXISTS)
        return;
    if (code == 0) {
        e->all->stats.certificates_applied++;
        log_info("listener.certificates_applied", LF_STR("address", e->address),
                 LF_INT("expires", e->expires_s));
        return;
    }
    e->all->stats.certificates_refused++;
    log_error("listener.certificates_refused", LF_STR("address", e->address), LF_STR("detail", err.msg),
              LF_STR("action", "those in force stay"));
}

/* --- files that change --- */

static int file_read(struct slice path, struct buf *out, struct err *err)
{
    int code = source_read(path.p, CERTIFICATE_FILE_MAX, out, err);
    if (code != 0)
        buf_init(out, 0); /* nothing in it */
    return code == 0 ? 0 : err_prefix(err, "cannot read %.*s", SL_ARG(path));
}

static void entry_read(struct entry *e)
{
    struct config_tls tls[TLS_PAIRS_MAX] = {{.cert_file = SLICE_NULL}};
    struct buf certs[TLS_PAIRS_MAX], keys[TLS_PAIRS_MAX];
    struct err err = {0};
    int code = 0;
    size_t n = 0;
    for (; n < e->n_files && code == 0; n++) {
        tls[n] = e->files[n];
        buf_init(&keys[n], 0);
        code = file_read(tls[n].cert_file, &certs[n], &err);
        if (code == 0)
            code = file_read(tls[n].key_file, &keys[n], &err);
        tls[n].cert_pem = buf_view(&certs[n]);
        tls[n].key_pem = buf_view(&keys[n]);
    }
    if (code == 0) {
        entry_change(e, tls, n);
    } else {
        e->all->stats.certificates_refused++;
        log_error("listener.certificates_refused", LF_STR("address", e->address), LF_STR("detail", err.msg),
                  LF_STR("action", "those in force stay"));
    }
    for (size_t i = 0; i < n; i++) {
        buf_fini(&certs[i]);
        buf_wipe(&keys[i]);
    }
}

static void on_settled(void *data)
{
    entry_read(data);
}

static void on_file_changed(uv_fs_poll_t *poll, int status, const uv_stat_t *before, const uv_stat_t *now)
{
    struct watch *w = poll->data;
    (void)status; /* gone: reading tells */
    (void)before;
    (void)now;
    if (w->entry != NULL)
        timer_start(w->entry->settle, SETTLE_MS);
}

static void on_watch_closed(uv_handle_t *h)
{
    mem_free(h->data);
}

static void watches_close(struct entry *e)
{
    for (size_t i = 0; i < e->n_watches; i++) {
        e->watches[i]->entry = NULL;
        uv_close((uv_handle_t *)&e->watches[i]->poll, on_watch_closed);
    }
    e->n_watches = 0;
    for (size_t i = 0; i < e->n_files; i++) {
        mem_free((void *)(uintptr_t)e->files[i].cert_file.p);
        mem_free((void *)(uintptr_t)e->files[i].key_file.p);
    }
    e->n_files = 0;
}

static void watch_open(struct entry *e, struct slice path)
{
    struct watch *w = MEM_NEW(struct watch);
    w->entry = e;
    w->poll.data = w;
    must(uv_fs_poll_init(&e->all->loop->uv, &w->poll) == 0);
    e->watches[e->n_watches++] = w;
    int code = uv_fs_poll_start(&w->poll, on_file_changed, path.p, LOOK_MS);
    if (code != 0)
        log_warn("listener.not_watched", LF_SLICE("file", path), LF_STR("error", uv_strerror(code)),
                 LF_STR("action", "changes are seen on reload only"));
}

static void watches_open(struct entry *e, const struct config_listen *l)
{
    watches_close(e);
    for (size_t i = 0; i < l->n_tls; i++) {
        struct config_tls *f = &e->files[e->n_files++];
        *f = (struct config_tls){
            .cert_file = slice_str(mem_strndup(l->tls[i].cert_file.p, l->tls[i].cert_file.n)),
            .key_file = slice_str(mem_strndup(l->tls[i].key_file.p, l->tls[i].key_file.n))};
        watch_open(e, f->cert_file);
        watch_open(e, f->key_file);
    }
    timer_start(e->settle, LOOK_MS); /* what changed between reading them and the first look is seen now */
}

/* --- all of them --- */

static int entry_open(struct listeners *ls, const struct config_listen *l, struct entry *e, struct err *err)
{
    e->all = ls;
    e->address = mem_strndup(l->address.p, l->address.n);
    e->settle = timer_new(ls->loop, on_settled, e);
    ls->n_entries++;
    int code = entry_put(e, l->tls, l->n_tls, true, err);
    if (code == 0)
        watches_open(e, l);
    return code;
}

int listeners_open(struct loop *l, struct server *server, const struct tenancy *t, struct listeners **ret,
                   struct err *err)
{
    struct listeners *ls = MEM_NEW(struct listeners);
    int code = 0;
    ls->loop = l;
    ls->entries = mem_zalloc((t->n_listen + 1) * sizeof *ls->entries);
    for (size_t i = 0; i < t->n_listen && code == 0; i++) {
        const struct config_listen *at = &t->listen[i];
        struct tls_server *tls = NULL;
        struct endpoint where;
        uint16_t port = 0;
        if (at->n_tls > 0) {
            struct entry *e = &ls->entries[ls->n_entries];
            e->at = i;
            code = entry_open(ls, at, e, err);
            tls = e->tls;
        }
        if (code == 0)
            code = endpoint_parse(at->address, &where, err);
        if (code == 0)
            code = server_listen_tls(server, &where, tls, &port, err);
        if (code == 0)
            log_info("listening", LF_SLICE("address", at->address), LF_INT("port", port),
                     LF_BOOL("tls", tls != NULL));
    }
    *ret = ls; /* also after a failure: the server may hold what is in it */
    return code;
}

/* The listener as a new configuration has it; NULL: it has it no more. Several may say port 0, so the place
 * counts first. */
static const struct config_listen *entry_find(const struct entry *e, const struct tenancy *t)
{
    const struct config_listen *found = NULL;
    for (size_t i = t->n_listen; i > 0; i--) {
        const struct config_listen *l = &t->listen[i - 1];
        if (l->n_tls > 0 && slice_eq_str(l->address, e->address) && (found == NULL || i - 1 >= e->at))
            found = l;
    }
    return found;
}

void listeners_apply(struct listeners *ls, const struct tenancy *t)
{
    for (size_t i = 0; i < ls->n_entries; i++) {
        const struct config_listen *l = entry_find(&ls->entries[i], t);
        if (l == NULL)
            continue;
        entry_change(&ls->entries[i], l->tls, l->n_tls);
        watches_open(&ls->entries[i], l);
    }
}

const struct listeners_stats *listeners_stats(const struct listeners *ls)
{
    return &ls->stats;
}

void listeners_free(struct listeners *ls)
{
    if (ls == NULL)
        return;
    for (size_t i = 0; i < ls->n_entries; i++) {
        struct entry *e = &ls->entries[i];
        watches_close(e);
        timer_free(e->settle);
        tls_server_free(e->tls);
        mem_free(e->address);
    }
    mem_free(ls->entries);
    mem_free(ls);
}
