/* tar: see tar.h.
 *
 * Happy path: entries are collected, then tar_read walks over them; of each it makes the header (after a pax
 * header, where a name or a size does not fit the old fields), then the content, then the padding to 512.
 * Failure paths: a file that shrinks or goes away between the two makes the archive useless, and is said; one
 * that grows is cut at the length that was promised. */
#include "controller/cli/tar.h"

#include "base/core/buf.h"
#include "base/core/hash.h"
#include "base/core/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK      512u
#define NAME_MAX_  100u /* the old fields */
#define SIZE_MAX_  077777777777ull
#define OWNER_MAX_ 07777777u
#define DEPTH_MAX  200u
#define HEADER_MAX (size_t)(4 * PATH_MAX)

enum kind { KIND_FILE = '0', KIND_HARD = '1', KIND_SYMLINK = '2', KIND_FOLDER = '5', KIND_PAX = 'x' };

struct entry {
    enum kind kind;
    unsigned mode, uid, gid;
    int64_t mtime_s;
    uint64_t bytes;
    char *path;   /* inside; owned */
    char *target; /* of links; owned */
    char *source; /* on this machine; owned; NULL: text */
    char *text;   /* owned */
};

/* A file with several names: which path it went in as first. */
struct seen {
    struct {
        dev_t dev;
        ino_t ino;
    } key;
    size_t entry;
    UT_hash_handle hh;
};

struct tar {
    struct entry *entries;
    size_t n, cap;
    uint64_t bytes; /* of all entries, headers and padding included */
    struct seen *seen;
    /* reading */
    size_t at;         /* the entry being read; n: the end blocks; n + 1: done */
    struct buf header; /* of it; empty: not begun */
    uint64_t offset;   /* in header, content and padding taken together */
    int fd;            /* its source; -1: not open */
};

struct tar *tar_new(void)
{
    struct tar *t = MEM_NEW(struct tar);
    t->header = BUF_INIT(HEADER_MAX);
    t->fd = -1;
    return t;
}

void tar_free(struct tar *t)
{
    struct seen *s, *next;
    if (t == NULL)
        return;
    HASH_ITER (hh, t->seen, s, next) {
        HASH_DEL(t->seen, s);
        mem_free(s);
    }
    for (size_t i = 0; i < t->n; i++) {
        mem_free(t->entries[i].path);
        mem_free(t->entries[i].target);
        mem_free(t->entries[i].source);
        mem_free(t->entries[i].text);
    }
    if (t->fd >= 0)
        (void)close(t->fd);
    mem_free(t->entries);
    buf_fini(&t->header);
    mem_free(t);
}

/* --- headers --- */

static uint64_t padded(uint64_t bytes)
{
    return (bytes + BLOCK - 1) / BLOCK * BLOCK;
}

static bool needs_pax(const struct entry *e)
{
    return strlen(e->path) > NAME_MAX_ || (e->target != NULL && strlen(e->target) > NAME_MAX_) ||
           e->bytes > SIZE_MAX_ || e->uid > OWNER_MAX_ || e->gid > OWNER_MAX_;
}

/* "<length> <key>=<value>\n", where the length counts itself. */
static void pax_record(struct buf *b, const char *key, const char *value)
{
    size_t rest = strlen(key) + strlen(value) + 3, n = rest, digits;
    do {
        char text[24];
        digits = (size_t)snprintf(text, sizeof text, "%zu", n);
        n = rest + digits;
    } while ((size_t)snprintf(NULL, 0, "%zu", n) != digits);
    (void)buf_printf(b, "%zu %s=%s\n", n, key, value);
}

static void octal(char *field, size_t size, uint64_t value)
{
    (void)snprintf(field, size, "%0*" PRIo64, (int)size - 1, value);
}

static void block(struct buf *out, const struct entry *e, enum kind kind, uint64_t bytes)
{
    char b[BLOCK + 1] = {0};
    unsigned sum = 0;
    /* what is too long here stands whole in the pax header before */
    memcpy(b, e->path, strnlen(e->path, NAME_MAX_));
    octal(b + 100, 8, e->mode & 07777u);
    octal(b + 108, 8, e->uid <= OWNER_MAX_ ? e->uid : 0);
    octal(b + 116, 8, e->gid <= OWNER_MAX_ ? e->gid : 0);
    octal(b + 124, 12, bytes <= SIZE_MAX_ ? bytes : 0);
    octal(b + 136, 12, e->mtime_s > 0 ? (uint64_t)e->mtime_s & SIZE_MAX_ : 0);
    memset(b + 148, ' ', 8);
    b[156] = (char)kind;
    if (e->target != NULL && kind != KIND_PAX)
        memcpy(b + 157, e->target, strnlen(e->target, NAME_MAX_));
    memcpy(b + 257,
           "ustar\0"
           "00",
           8);
    for (size_t i = 0; i < BLOCK; i++)
        sum += (unsigned char)b[i];
    (void)snprintf(b + 148, 8, "%06o", sum);
    b[155] = ' ';
    (void)buf_append(out, b, BLOCK);
}

static void header_make(struct buf *out, const struct entry *e)
{
    if (needs_pax(e)) {
        struct buf records = BUF_INIT(HEADER_MAX);
        char number[24];
        pax_record(&records, "path", e->path);
        if (e->target != NULL)
            pax_record(&records, "linkpath", e->target);
        (void)snprintf(number, sizeof number, "%" PRIu64, e->bytes);
        pax_record(&records, "size", number);
        (void)snprintf(number, sizeof number, "%u", e->uid);
        pax_record(&records, "uid", number);
        (void)snprintf(number, sizeof number, "%u", e->gid);
        pax_record(&records, "gid", number);
        block(out, e, KIND_PAX, records.n);
        (void)buf_slice(out, buf_view(&records));
        while (out->n % BLOCK != 0)
            (void)buf_byte(out, '\0');
        buf_fini(&records);
    }
    block(out, e, e->kind, e->bytes);
    must(!out->is_full); /* paths are at most PATH_MAX */
}

/* --- what goes in --- */

static struct entry *entry_add(struct tar *t, enum kind kind, const char *path, unsigned mode)
{
    must(path[0] != '/' && strlen(path) < PATH_MAX);
    if (t->n == t->cap) {
        t->cap = t->cap == 0 ? 256 : t->cap * 2;
        t->entries = mem_realloc(t->entries, t->cap * sizeof *t->entries);
    }
    struct entry *e = &t->entries[t->n++];
    *e = (struct entry){.kind = kind, .mode = mode, .path = mem_strdup(path)};
    return e;
}

/* After its last field is set. */
static void entry_done(struct tar *t, const struct entry *e)
{
    struct buf header = BUF_INIT(HEADER_MAX);
    header_make(&header, e);
    t->bytes += header.n + padded(e->bytes);
    buf_fini(&header);
}

void tar_folder(struct tar *t, const char *path, unsigned mode, unsigned uid, unsigned gid)
{
    struct entry *e = entry_add(t, KIND_FOLDER, path, mode);
    e->uid = uid;
    e->gid = gid;
    entry_done(t, e);
}

void tar_text(struct tar *t, const char *path, struct slice text, unsigned mode)
{
    struct entry *e = entry_add(t, KIND_FILE, path, mode);
    e->text = mem_strndup(text.p, text.n);
    e->bytes = text.n;
    entry_done(t, e);
}

void tar_symlink(struct tar *t, const char *path, const char *target)
{
    struct entry *e = entry_add(t, KIND_SYMLINK, path, 0777);
    must(strlen(target) < PATH_MAX);
    e->target = mem_strdup(target);
    entry_done(t, e);
}

static int fail(struct err *err, const char *path)
{
    int e = errno;
    return err_set(err, err_from_errno(e), "%s: %s", path, strerror(e));
}

int tar_file(struct tar *t, const char *path, const char *source, unsigned mode, struct err *err)
{
    struct stat st;
    if (stat(source, &st) != 0)
        return fail(err, source);
    if (!S_ISREG(st.st_mode))
        return err_set(err, E_INVALID, "%s: not a file", source);
    struct entry *e = entry_add(t, KIND_FILE, path, mode);
    e->source = mem_strdup(source);
    e->bytes = (uint64_t)st.st_size;
    e->mtime_s = st.st_mtime;
    entry_done(t, e);
    return 0;
}

static void tree_file(struct tar *t, struct entry *e, size_t index, const char *source, const struct stat *st)
{
    struct seen *s = NULL, key = {0};
    key.key.dev = st->st_dev;
    key.key.ino = st->st_ino;
    if (st->st_nlink > 1)
        HASH_FIND(hh, t->seen, &key.key, sizeof key.key, s);
    if (s != NULL) {
        e->kind = KIND_HARD;
        e->target = mem_strdup(t->entries[s->entry].path);
        return;
    }
    e->source = mem_strdup(source);
    e->bytes = (uint64_t)st->st_size;
    if (st->st_nlink > 1) {
        s = MEM_NEW(struct seen);
        s->key = key.key;
        s->entry = index;
        HASH_ADD(hh, t->seen, key, sizeof s->key, s);
    }
}

static int tree_entry(struct tar *t, const char *path, const char *source, const struct stat *st,
                      enum tar_owner owner, struct err *err)
{
    enum kind kind = S_ISDIR(st->st_mode) ? KIND_FOLDER : S_ISLNK(st->st_mode) ? KIND_SYMLINK : KIND_FILE;
    unsigned mode = st->st_mode & 07777u;
    char target[PATH_MAX];
    ssize_t n = 0;
    if (kind == KIND_SYMLINK && (n = readlink(source, target, sizeof target - 1)) < 0)
        return fail(err, source);
    if (t->n >= TAR_ENTRIES_MAX)
        return err_set(err, E_TOO_LARGE, "%s: more than %d files", source, TAR_ENTRIES_MAX);
    if (owner == TAR_ROOTS)
        mode = kind == KIND_FOLDER || (mode & 0111u) != 0 ? 0755 : 0644;
    struct entry *e = entry_add(t, kind, path, mode);
    if (owner == TAR_KEEPS_OWNERS) {
        e->uid = st->st_uid;
        e->gid = st->st_gid;
    }
    e->mtime_s = st->st_mtime;
    if (kind == KIND_SYMLINK)
        e->target = mem_strndup(target, (size_t)n);
    else if (kind == KIND_FILE)
        tree_file(t, e, t->n - 1, source, st);
    entry_done(t, e);
    return 0;
}

static int tree_folder(struct tar *t, const char *path, const char *source, enum tar_owner owner,
                       unsigned depth, struct err *err)
{
    DIR *d = opendir(source);
    struct dirent *it;
    int rc = 0;
    if (d == NULL)
        return fail(err, source);
    while (rc == 0 && (errno = 0, it = readdir(d)) != NULL) {
        char inside[PATH_MAX], outside[PATH_MAX];
        struct stat st;
        if (strcmp(it->d_name, ".") == 0 || strcmp(it->d_name, "..") == 0)
            continue;
        int a = snprintf(inside, sizeof inside, "%s%s%s", path, path[0] != '\0' ? "/" : "", it->d_name);
        int b = snprintf(outside, sizeof outside, "%s/%s", source, it->d_name);
        if (a >= PATH_MAX || b >= PATH_MAX || depth == DEPTH_MAX)
            rc = err_set(err, E_TOO_LARGE, "%s/%s: too deep or too long", source, it->d_name);
        else if (lstat(outside, &st) != 0)
            rc = errno == ENOENT ? 0 : fail(err, outside);
        else if (S_ISDIR(st.st_mode) || S_ISREG(st.st_mode) || S_ISLNK(st.st_mode))
            rc = tree_entry(t, inside, outside, &st, owner, err);
        else
            continue;
        if (rc == 0 && S_ISDIR(st.st_mode))
            rc = tree_folder(t, inside, outside, owner, depth + 1, err);
    }
    if (rc == 0 && errno != 0)
        rc = fail(err, source);
    (void)closedir(d); /* was only read */
    return rc;
}

int tar_tree(struct tar *t, const char *path, const char *source, enum tar_owner owner, struct err *err)
{
    struct stat st;
    if (stat(source, &st) != 0)
        return fail(err, source);
    if (!S_ISDIR(st.st_mode))
        return err_set(err, E_INVALID, "%s: not a folder", source);
    int rc = path[0] != '\0' ? tree_entry(t, path, source, &st, owner, err) : 0;
    return rc != 0 ? rc : tree_folder(t, path, source, owner, 0, err);
}

/* --- reading --- */

uint64_t tar_bytes(const struct tar *t)
{
    return t->bytes + 2 * (uint64_t)BLOCK;
}

static ssize_t read_source(struct tar *t, const struct entry *e, uint64_t from, char *to, size_t n,
                           struct err *err)
{
    if (t->fd < 0 && (t->fd = open(e->source, O_RDONLY | O_CLOEXEC | O_NOCTTY)) < 0)
        return fail(err, e->source), -1;
    ssize_t got = pread(t->fd, to, n, (off_t)from);
    if (got < 0)
        return fail(err, e->source), -1;
    if (got == 0)
        return err_set(err, E_IO, "%s: became shorter while it was read", e->source), -1;
    return got;
}

/* Bytes of the current entry; 0: it is whole. */
static ssize_t read_entry(struct tar *t, char *to, size_t n, struct err *err)
{
    const struct entry *e = &t->entries[t->at];
    uint64_t content = t->header.n + e->bytes, end = t->header.n + padded(e->bytes), left;
    if (t->offset < t->header.n) {
        left = t->header.n - t->offset;
        n = n < left ? n : (size_t)left;
        memcpy(to, t->header.p + t->offset, n);
        return (ssize_t)n;
    }
    if (t->offset < content) {
        uint64_t from = t->offset - t->header.n;
        left = content - t->offset;
        n = n < left ? n : (size_t)left;
        if (e->source != NULL)
            return read_source(t, e, from, to, n, err);
        memcpy(to, e->text + from, n);
        return (ssize_t)n;
    }
    left = end - t->offset;
    n = n < left ? n : (size_t)left;
    memset(to, 0, n);
    return (ssize_t)n;
}

ssize_t tar_read(struct tar *t, char *to, size_t n, struct err *err)
{
    size_t done = 0;
    while (done < n && t->at < t->n) {
        if (t->header.n == 0)
            header_make(&t->header, &t->entries[t->at]);
        ssize_t got = read_entry(t, to + done, n - done, err);
        if (got < 0)
            return -1;
        t->offset += (uint64_t)got;
        done += (size_t)got;
        if (got > 0)
            continue;
        if (t->fd >= 0)
            (void)close(t->fd); /* was only read */
        t->fd = -1;
        t->offset = 0;
        t->at++;
        buf_reset(&t->header);
    }
    if (t->at == t->n && done < n) { /* two empty blocks end an archive */
        uint64_t left = 2 * BLOCK - t->offset;
        size_t k = n - done < left ? n - done : (size_t)left;
        memset(to + done, 0, k);
        t->offset += k;
        done += k;
        if (t->offset == 2 * BLOCK)
            t->at++;
    }
    return (ssize_t)done;
}

int tar_first_file(struct slice archive, struct slice *ret, struct err *err)
{
    uint64_t bytes = 0;
    while (archive.n >= BLOCK) {
        char kind = archive.p[156];
        for (size_t i = 124; i < 135; i++) {
            if (archive.p[i] < '0' || archive.p[i] > '7')
                return err_set(err, E_SYNTAX, "not an archive");
            bytes = bytes * 8 + (uint64_t)(archive.p[i] - '0');
        }
        if (archive.n - BLOCK < bytes)
            return err_set(err, E_SYNTAX, "an archive that is cut short");
        if (kind == KIND_FILE || kind == '\0') {
            *ret = slice_of(archive.p + BLOCK, (size_t)bytes);
            return 0;
        }
        if (kind != KIND_PAX && kind != 'g')
            return err_set(err, E_INVALID, "not a plain file");
        archive = slice_from(archive, (size_t)(BLOCK + padded(bytes)));
        bytes = 0;
    }
    return err_set(err, E_SYNTAX, "an archive that is cut short");
}
