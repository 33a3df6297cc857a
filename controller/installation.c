/* installation: see installation.h. */
#include "controller/installation.h"

#include "base/core/json.h"
#include "base/core/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define META_KEY     "meta/installation"
#define CHECK_TEXT   "reeve seal check"
#define CHECK_PLACE  "installation/check"
#define KEY_HEX_SIZE (SEAL_KEY_BYTES * 2)

struct opening {
    struct loop *loop;
    struct store *store;
    char *key_path;
    struct installation i;
    uint64_t version; /* of the record; 0: an empty store */
    char check_hex[256];
    struct err err;
    installation_cb done;
    void *data;
};

static void opening_end(struct opening *o, int code)
{
    installation_cb done = o->done;
    void *data = o->data;
    done(code, &o->i, &o->err, data);
    mem_wipe(&o->i.key, sizeof o->i.key);
    mem_free(o->key_path);
    mem_free(o);
}

/* --- the key file: 64 hexadecimal digits and a newline --- */

static int key_read(struct opening *o)
{
    char text[KEY_HEX_SIZE + 2];
    struct buf raw = BUF_INIT(SEAL_KEY_BYTES);
    int fd = open(o->key_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return err_set(&o->err, errno == ENOENT ? E_NOT_FOUND : E_IO, "seal key %s: %s", o->key_path,
                       strerror(errno));
    ssize_t n = read(fd, text, sizeof text);
    (void)close(fd);
    if (n < KEY_HEX_SIZE || hex_decode(slice_of(text, KEY_HEX_SIZE), &raw) != 0) {
        buf_wipe(&raw);
        return err_set(&o->err, E_INVALID, "seal key %s: expected %d hexadecimal digits", o->key_path,
                       KEY_HEX_SIZE);
    }
    memcpy(o->i.key.bytes, raw.p, SEAL_KEY_BYTES);
    buf_wipe(&raw);
    mem_wipe(text, sizeof text);
    return 0;
}

static int write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return -1;
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

/* Durable under its name before anything is sealed with it. */
static int key_make(struct opening *o)
{
    struct buf hex = BUF_INIT(KEY_HEX_SIZE + 1);
    rnd_fill(o->loop->rnd, o->i.key.bytes, SEAL_KEY_BYTES);
    (void)hex_encode(slice_of(o->i.key.bytes, SEAL_KEY_BYTES), &hex);
    (void)buf_byte(&hex, '\n');
    AUTO_FREE char *tmp = mem_zalloc(strlen(o->key_path) + 8);
    AUTO_FREE char *copy = mem_strdup(o->key_path);
    (void)snprintf(tmp, strlen(o->key_path) + 8, "%s.new", o->key_path);
    (void)unlink(tmp); /* of a start that died here */
    int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool is_ok = fd >= 0 && write_all(fd, hex.p, hex.n) == 0 && fsync(fd) == 0;
    if (fd >= 0)
        is_ok = close(fd) == 0 && is_ok;
    is_ok = is_ok && rename(tmp, o->key_path) == 0;
    int dir = is_ok ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    is_ok = is_ok && dir >= 0 && fsync(dir) == 0;
    if (dir >= 0)
        (void)close(dir);
    buf_wipe(&hex);
    return is_ok ? 0
                 : err_set(&o->err, E_IO, "seal key %s: cannot be made: %s", o->key_path, strerror(errno));
}

static int check_make(struct opening *o)
{
    struct buf sealed = BUF_INIT(128), hex = BUF_INIT(sizeof o->check_hex - 1);
    int code = seal(&o->i.key, o->loop->rnd, SL(CHECK_PLACE), SL(CHECK_TEXT), &sealed);
    if (code == 0)
        code = hex_encode(buf_view(&sealed), &hex);
    if (code == 0)
        (void)snprintf(o->check_hex, sizeof o->check_hex, "%s", buf_cstr(&hex));
    buf_fini(&sealed);
    buf_fini(&hex);
    return code == 0 ? 0 : err_set(&o->err, code, "seal key: cannot seal");
}

static int check_verify(struct opening *o)
{
    struct buf sealed = BUF_INIT(128), plain = BUF_INIT(64);
    bool is_ok = hex_decode(slice_str(o->check_hex), &sealed) == 0 &&
                 unseal(&o->i.key, SL(CHECK_PLACE), buf_view(&sealed), &plain, NULL) == 0 &&
                 slice_eq_str(buf_view(&plain), CHECK_TEXT);
    buf_fini(&sealed);
    buf_fini(&plain);
    return is_ok ? 0
                 : err_set(&o->err, E_INVALID, "seal key %s: is not the one that this store was sealed with",
                           o->key_path);
}

/* --- the record --- */

static void on_saved(const struct store_commit_answer *a, void *data)
{
    struct opening *o = data;
    if (a->code == E_CONFLICT)
        err_set(&o->err, E_CONFLICT, "the store was opened by another controller at this moment");
    else if (a->code != 0)
        err_set(&o->err, a->code, "store: %s", a->err != NULL ? a->err->msg : err_title(a->code));
    opening_end(o, a->code);
}

static void save(struct opening *o)
{
    struct buf value = BUF_INIT(1024);
    struct jsonw w;
    jsonw_init(&w, &value);
    jsonw_object(&w);
    jsonw_kstr(&w, "controller", o->i.id);
    jsonw_ku64(&w, "epoch", o->i.epoch);
    jsonw_kstr(&w, "seal_check", o->check_hex);
    jsonw_object_end(&w);
    struct store_op ops[] = {store_expect(SL(META_KEY), o->version),
                             store_put(SL(META_KEY), buf_view(&value))};
    store_commit(o->store, SL("fleet"), ops, ARRAY_LEN(ops), on_saved, o);
    buf_fini(&value);
}

static int record_read(struct opening *o, struct slice value)
{
    struct json *j = NULL;
    int code = json_parse(value, NULL, &j, &o->err);
    struct slice id = json_string(json_get(j, "controller")), check = json_string(json_get(j, "seal_check"));
    if (code == 0 && (!id_is_valid(id, "ctl") || check.n == 0 || check.n >= sizeof o->check_hex ||
                      json_u64(json_get(j, "epoch"), &o->i.epoch) != 0))
        code = err_set(&o->err, E_STORE, "store: record " META_KEY " is not readable");
    if (code == 0) {
        (void)snprintf(o->i.id, sizeof o->i.id, "%.*s", SL_ARG(id));
        (void)snprintf(o->check_hex, sizeof o->check_hex, "%.*s", SL_ARG(check));
    }
    json_free(j);
    return code;
}

static void on_record(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                      void *data)
{
    struct opening *o = data;
    (void)has_more;
    if (code != 0 || n != 1) {
        o->err = *err;
        opening_end(o, code != 0 ? code : E_STORE);
        return;
    }
    o->version = r->version;
    if (r->version != 0) {
        code = record_read(o, r->value);
        if (code == 0)
            code = key_read(o);
        if (code == E_NOT_FOUND)
            code =
                err_set(&o->err, E_NOT_FOUND,
                        "seal key %s is missing, and this store was sealed with it: restore it", o->key_path);
        if (code == 0)
            code = check_verify(o);
    } else {
        /* a start that died between the key and the record left a key that sealed nothing: it is taken */
        id_new(o->loop->rnd, "ctl", o->i.id);
        code = key_read(o);
        if (code == E_NOT_FOUND)
            code = key_make(o);
        if (code == 0)
            code = check_make(o);
    }
    if (code != 0) {
        opening_end(o, code);
        return;
    }
    o->i.epoch++;
    save(o);
}

void installation_open(struct loop *l, struct store *s, const char *key_path, installation_cb done,
                       void *data)
{
    struct opening *o = MEM_NEW(struct opening);
    o->loop = l;
    o->store = s;
    o->key_path = mem_strdup(key_path);
    o->done = done;
    o->data = data;
    struct slice keys[] = {SL(META_KEY)};
    store_get(s, SL("fleet"), keys, 1, on_record, o);
}
