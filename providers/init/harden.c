/* harden: what reeve-init gives up before anything of the tenant runs, and the filter its server lives under.
 *
 * Order in harden_process: not dumpable first (nothing inside may ever look into this process), limits, then
 * as root the bounding set, groups, ids and all capabilities; last no_new_privs and a proof that root is
 * gone. The filter is a deny list of what no agent needs and what reaches past the namespaces: socket
 * families other than unix, IPv4, IPv6 and netlink (AF_VSOCK crosses every network namespace), new user
 * namespaces, mounts, keyrings, bpf and other large kernel surfaces. A refused call gives EPERM, clone3 gives
 * ENOSYS so that libraries fall back to clone, whose flags a filter can read. */
#include "providers/init/init.h"

#include <errno.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILES_MAX 65536

/* Lowers soft and hard together; never raises what we were given. */
static int limit_set(int what, rlim_t value)
{
    struct rlimit now;
    if (getrlimit((__rlimit_resource_t)what, &now) != 0)
        return -1;
    if (now.rlim_max != RLIM_INFINITY && now.rlim_max < value)
        value = now.rlim_max;
    return setrlimit((__rlimit_resource_t)what, &(struct rlimit){value, value});
}

static int limits_set(const struct harden *h)
{
    if (limit_set(RLIMIT_CORE, 0) != 0 || limit_set(RLIMIT_NOFILE, FILES_MAX) != 0)
        return -1;
    if (h->nproc > 0 && limit_set(RLIMIT_NPROC, (rlim_t)h->nproc) != 0)
        return -1;
    if (h->data_bytes > 0 && limit_set(RLIMIT_DATA, (rlim_t)h->data_bytes) != 0)
        return -1;
    return 0;
}

static int ids_set(uid_t uid, gid_t gid)
{
    for (int cap = 0; cap <= 63; cap++)
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0 && errno != EINVAL)
            return -1;
    if (setgroups(0, NULL) != 0 || setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0)
        return -1;
    return 0;
}

static int caps_drop(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0)
        return -1;
    return (int)syscall(SYS_capset, &head, none);
}

int harden_process(const struct harden *h)
{
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 || limits_set(h) != 0) {
        complain("harden", "limits");
        return -1;
    }
    if (h->has_ids && ids_set(h->uid, h->gid) != 0) {
        complain("harden", "ids");
        return -1;
    }
    /* A change of ids made the process dumpable by the system's default: say it again. */
    if (caps_drop() != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) {
        complain("harden", "capabilities");
        return -1;
    }
    if (getuid() == 0 || geteuid() == 0 || getgid() == 0 || setuid(0) == 0) {
        errno = 0;
        complain("harden", "will not run as root");
        return -1;
    }
    return 0;
}

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#else
#error "reeve-init: add this machine's AUDIT_ARCH"
#endif

#define LOAD(offset)       BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(offset))
#define ARG_LOW(n)         (offsetof(struct seccomp_data, args) + 8 * (n)) /* both machines are little-endian */
#define GIVE(what)         BPF_STMT(BPF_RET | BPF_K, (what))
#define GIVE_ERRNO(e)      GIVE(SECCOMP_RET_ERRNO | ((uint32_t)(e)&SECCOMP_RET_DATA))
#define IF_EQ(k, t, f)     BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(k), (t), (f))
#define IF_GE(k, t, f)     BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)(k), (t), (f))
#define IF_SET(k, t, f)    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (uint32_t)(k), (t), (f))
#define REFUSE(call)       IF_EQ(SYS_##call, 0, 1), GIVE_ERRNO(EPERM)
#define REFUSE_AS(call, e) IF_EQ(SYS_##call, 0, 1), GIVE_ERRNO(e)

int harden_server(void)
{
    struct sock_filter code[] = {
        LOAD(offsetof(struct seccomp_data, arch)),
        IF_EQ(NATIVE_ARCH, 1, 0),
        GIVE_ERRNO(ENOSYS), /* 32-bit calls: another table, another surface */
        LOAD(offsetof(struct seccomp_data, nr)),
#if defined(__x86_64__)
        IF_GE(0x40000000, 0, 1), /* x32 */
        GIVE_ERRNO(ENOSYS),
#endif
        /* socket and socketpair: the family decides. */
        IF_EQ(SYS_socket, 1, 0),
        IF_EQ(SYS_socketpair, 0, 7),
        LOAD(ARG_LOW(0)),
        IF_EQ(AF_UNIX, 4, 0),
        IF_EQ(AF_INET, 3, 0),
        IF_EQ(AF_INET6, 2, 0),
        IF_EQ(AF_NETLINK, 1, 0),
        GIVE_ERRNO(EAFNOSUPPORT),
        GIVE(SECCOMP_RET_ALLOW),
        /* New user namespaces: whole kernel subsystems behind them. */
        IF_EQ(SYS_clone, 1, 0),
        IF_EQ(SYS_unshare, 0, 4),
        LOAD(ARG_LOW(0)),
        IF_SET(CLONE_NEWUSER, 0, 1),
        GIVE_ERRNO(EPERM),
        GIVE(SECCOMP_RET_ALLOW),
        REFUSE_AS(clone3, ENOSYS),
        REFUSE(setns),
        REFUSE(mount),
        REFUSE(umount2),
        REFUSE(pivot_root),
        REFUSE(chroot),
        REFUSE(move_mount),
        REFUSE(fsopen),
        REFUSE(fsconfig),
        REFUSE(fsmount),
        REFUSE(fspick),
        REFUSE(open_tree),
        REFUSE(mount_setattr),
        REFUSE(keyctl),
        REFUSE(add_key),
        REFUSE(request_key),
        REFUSE(bpf),
        REFUSE(perf_event_open),
        REFUSE_AS(userfaultfd, EPERM),
        REFUSE_AS(io_uring_setup, ENOSYS),
        REFUSE_AS(io_uring_enter, ENOSYS),
        REFUSE_AS(io_uring_register, ENOSYS),
        REFUSE(kexec_load),
        REFUSE(kexec_file_load),
        REFUSE(init_module),
        REFUSE(finit_module),
        REFUSE(delete_module),
        REFUSE(open_by_handle_at),
        REFUSE(name_to_handle_at),
        REFUSE(quotactl),
        REFUSE(acct),
        REFUSE(swapon),
        REFUSE(swapoff),
        REFUSE(reboot),
        REFUSE(syslog),
        REFUSE(vhangup),
        REFUSE(lookup_dcookie),
        REFUSE(nfsservctl),
        REFUSE(fanotify_init),
        REFUSE(move_pages),
        REFUSE(migrate_pages),
        REFUSE(settimeofday),
        REFUSE(clock_settime),
        REFUSE(clock_adjtime),
        REFUSE(adjtimex),
        GIVE(SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = (unsigned short)(sizeof(code) / sizeof(code[0])), .filter = code};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
}
