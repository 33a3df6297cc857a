/* Archives that GNU tar reads back as what went in, and what cannot be read is said. */
#include "controller/cli/tar.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/buf.h"
#include "base/core/mem.h"

static char folder[] = "/tmp/reeve-tar-XXXXXX";

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(folder) != NULL && chdir(folder) == 0 ? 0 : -1;
}

static void run(const char *command)
{
    assert_int_equal(system(command), 0);
}

static int tear_down(void **state)
{
    (void)state;
    char command[PATH_MAX];
    (void)snprintf(command, sizeof command, "rm -rf %s", folder);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

/* The whole archive, read in pieces of `step`. */
static void read_all(struct tar *t, size_t step, struct buf *out)
{
    struct err err = {0};
    ssize_t n;
    do {
        assert_int_equal(buf_reserve(out, step), 0);
        n = tar_read(t, out->p + out->n, step, &err);
        assert_true(n >= 0);
        out->n += (size_t)n;
    } while (n > 0);
    assert_int_equal(out->n, tar_bytes(t));
}

static void write_file(const char *path, const struct buf *b)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0 && write(fd, b->p, b->n) == (ssize_t)b->n && close(fd) == 0);
}

/* A tree with all that a root file system has, and then some. */
static void reads_back(void **state)
{
    (void)state;
    struct err err = {0};
    struct buf first = BUF_INIT((size_t)64 << 20), other = BUF_INIT((size_t)64 << 20);
    run("mkdir -p a/deep && long=$(printf 'x%.0s' $(seq 90)) && mkdir -p a/$long/$long/$long &&"
        "echo hello >a/$long/$long/$long/file && ln -s $long/$long/$long/file a/far && ln -s ../nowhere "
        "a/near &&"
        "head -c 1000000 /dev/urandom >a/deep/big && head -c 512 /dev/zero >a/deep/exact && : >a/deep/empty "
        "&&"
        "ln a/deep/big a/again && chmod 4755 a/deep/exact && chmod 1777 a/deep && mkfifo a/pipe && touch "
        "'a/\n\xc3\xa4'");
    for (int round = 0; round < 2; round++) {
        struct tar *t = tar_new();
        assert_int_equal(tar_tree(t, "", "a", TAR_KEEPS_OWNERS, &err), 0);
        read_all(t, round == 0 ? 65536 : 509, round == 0 ? &first : &other);
        tar_free(t);
    }
    assert_int_equal(first.n, other.n);
    assert_memory_equal(first.p, other.p, first.n);
    write_file("a.tar", &first);
    run("mkdir b && tar -xpf a.tar -C b && rm a/pipe && diff -r --no-dereference a b && "
        "[ $(stat -c %i b/again) = $(stat -c %i b/deep/big) ] && [ $(stat -c %a b/deep/exact) = 4755 ] && "
        "[ $(stat -c %a b/deep) = 1777 ] && [ \"$(readlink b/near)\" = ../nowhere ] && "
        "[ $(stat -c %Y b/deep/big) = $(stat -c %Y a/deep/big) ]");
    buf_fini(&first);
    buf_fini(&other);
}

static void roots_are_readable(void **state)
{
    (void)state;
    struct err err = {0};
    struct buf all = BUF_INIT((size_t)1 << 20);
    struct tar *t = tar_new();
    run("mkdir -m 700 c && echo one >c/secret && chmod 600 c/secret && echo two >c/program && chmod 4710 "
        "c/program");
    assert_int_equal(tar_tree(t, "opt/x", "c", TAR_ROOTS, &err), 0);
    tar_text(t, "etc/words", SL("three\n"), 0640);
    tar_symlink(t, "usr/x", "/opt/x/program");
    tar_folder(t, "home/agent", 0700, 1000, 8000000);
    assert_int_equal(tar_file(t, "usr/y", "c/secret", 0755, &err), 0);
    read_all(t, 1000, &all);
    tar_free(t);
    write_file("c.tar", &all);
    run("tar --numeric-owner -tvf c.tar | awk '{print $1, $2, $6}' | sort >c.list && printf '%s\\n' "
        "'-rw-r----- 0/0 etc/words' '-rw-r--r-- 0/0 opt/x/secret' '-rwxr-xr-x 0/0 opt/x/program' '-rwxr-xr-x "
        "0/0 usr/y' "
        "'drwx------ 1000/8000000 home/agent' 'drwxr-xr-x 0/0 opt/x' 'lrwxrwxrwx 0/0 usr/x' | sort | diff - "
        "c.list && "
        "[ \"$(tar -xOf c.tar etc/words usr/y)\" = \"$(printf 'three\\none')\" ]");
    buf_fini(&all);
}

static void what_cannot_be_read(void **state)
{
    (void)state;
    struct err err = {0};
    char to[4096];
    struct tar *t = tar_new();
    assert_int_equal(tar_file(t, "x", "absent", 0644, &err), E_NOT_FOUND);
    assert_non_null(strstr(err.msg, "absent"));
    assert_int_equal(tar_file(t, "x", ".", 0644, &err), E_INVALID);
    assert_int_equal(tar_tree(t, "x", "absent", TAR_ROOTS, &err), E_NOT_FOUND);
    run("echo a >file && echo 1234567890 >short");
    assert_int_equal(tar_tree(t, "x", "file", TAR_ROOTS, &err), E_INVALID);
    assert_int_equal(tar_file(t, "x", "short", 0644, &err), 0);
    assert_int_equal(truncate("short", 3), 0);
    ssize_t n = 1;
    while (n > 0)
        n = tar_read(t, to, 100, &err);
    assert_int_equal(n, -1);
    assert_non_null(strstr(err.msg, "short: became shorter"));
    tar_free(t);
}

static void first_file(void **state)
{
    (void)state;
    struct buf all = BUF_INIT((size_t)1 << 20);
    struct slice got = SLICE_NULL;
    struct tar *t = tar_new();
    char name[300];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    tar_text(t, name, SL("content"), 0644); /* a pax header goes before */
    read_all(t, 4096, &all);
    tar_free(t);
    assert_int_equal(tar_first_file(buf_view(&all), &got, NULL), 0);
    assert_true(slice_eq_str(got, "content"));
    for (size_t n = 0; n < 2 * 512 + 512 + 7; n++)
        assert_int_equal(tar_first_file(slice_of(all.p, n), &got, NULL), E_SYNTAX);
    all.p[1024 + 124] = '9';
    assert_int_equal(tar_first_file(buf_view(&all), &got, NULL), E_SYNTAX);
    buf_reset(&all);
    t = tar_new();
    tar_symlink(t, "link", "target");
    read_all(t, 4096, &all);
    tar_free(t);
    assert_int_equal(tar_first_file(buf_view(&all), &got, NULL), E_INVALID);
    buf_fini(&all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_back),
        cmocka_unit_test(roots_are_readable),
        cmocka_unit_test(what_cannot_be_read),
        cmocka_unit_test(first_file),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
