/* enter: `reeve-init enter [--lock FILE] [--cgroup FOLDER]... -- program argument...`, outside, before
 * bubblewrap.
 *
 * Takes the sandbox's lock (so that it is never started twice, whatever crashes when), moves itself into the
 * control groups (so that nothing inside ever ran outside of them), and becomes the program. The lock's
 * descriptor stays open on LOCK_FD and is inherited all the way to init. */
#include "providers/init/init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define LOCK_FD      3
#define LOCK_WAIT_MS 2000

#define EXIT_LOCKED 75 /* EX_TEMPFAIL: it runs already */
#define EXIT_FAILED 125

static int lock_take(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        complain("lock", path);
        return EXIT_FAILED;
    }
    if (fd != LOCK_FD) {
        if (dup2(fd, LOCK_FD) < 0) { /* the copy is not close-on-exec */
            complain("lock", path);
            return EXIT_FAILED;
        }
        close(fd);
    } else if (fcntl(fd, F_SETFD, 0) < 0) {
        complain("lock", path);
        return EXIT_FAILED;
    }
    int64_t until = now_ms() + LOCK_WAIT_MS;
    for (;;) {
        struct flock lock = {
            .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = INIT_LOCK_BYTE_LIFE, .l_len = 1};
        if (fcntl(LOCK_FD, F_OFD_SETLK, &lock) == 0)
            return 0;
        if (errno != EAGAIN && errno != EACCES && errno != EINTR) {
            complain("lock", path);
            return EXIT_FAILED;
        }
        if (now_ms() >= until) { /* a predecessor just killed may need a moment to vanish */
            errno = 0;
            complain("lock: the sandbox runs already", path);
            return EXIT_LOCKED;
        }
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
}

static int cgroup_join(const char *folder)
{
    char path[4096];
    int n = snprintf(path, sizeof(path), "%s/cgroup.procs", folder);
    if (n < 0 || (size_t)n >= sizeof(path)) {
        errno = ENAMETOOLONG;
        complain("control group", folder);
        return EXIT_FAILED;
    }
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1) {
        complain("control group", path);
        return EXIT_FAILED;
    }
    close(fd);
    return 0;
}

int enter_main(int argc, char **argv)
{
    int at = 0, rc = 0;
    for (; at + 1 < argc && strcmp(argv[at], "--") != 0; at += 2) {
        if (strcmp(argv[at], "--lock") == 0) {
            rc = lock_take(argv[at + 1]);
        } else if (strcmp(argv[at], "--cgroup") == 0) {
            rc = cgroup_join(argv[at + 1]);
        } else {
            errno = 0;
            complain("unknown option", argv[at]);
            rc = EXIT_FAILED;
        }
        if (rc != 0)
            return rc;
    }
    if (at + 1 >= argc || strcmp(argv[at], "--") != 0) {
        errno = 0;
        complain("enter: no program", "");
        return EXIT_FAILED;
    }
    execv(argv[at + 1], argv + at + 1);
    complain("cannot run", argv[at + 1]);
    return EXIT_FAILED;
}
