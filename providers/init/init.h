/* init: the parts of reeve-init and how they call each other. One thread, one poll loop, no library but libc.
 */
#ifndef REEVE_PROVIDERS_INIT_INIT_H
#define REEVE_PROVIDERS_INIT_INIT_H

#include "providers/init/protocol.h"

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* --- main.c --- */
int64_t now_ms(void);
void complain(const char *what,
              const char *detail); /* one line on stderr, with errno's text when it is not 0 */

/* --- enter.c: outside, before bubblewrap --- */
int enter_main(int argc, char **argv); /* only returns on failure: the exit code */

/* --- harden.c --- */
struct harden {
    bool has_ids; /* start as root: switch to uid and gid, drop every capability */
    uid_t uid;
    gid_t gid;
    uint64_t nproc, data_bytes; /* rlimits; 0: none */
};
int harden_process(const struct harden *h); /* 0, or -1 after complaining */
int harden_server(void); /* in the child, just before exec: the system call filter; 0 or -1 */

/* --- server.c: the one server process --- */
struct server {
    enum init_server_state state;
    pid_t pid;
    uint32_t starts, last_status;
    unsigned failures;   /* in a row */
    int64_t started_ms;  /* when it was last started */
    int64_t due_ms;      /* WAITING: start again; STOPPING: kill what is left */
    char **argv, **envp; /* one block each: pointers into `strings` */
    char *strings;
    size_t strings_bytes;
    int output_fd; /* read end of its stdout and stderr; -1: none */
    char tail[INIT_TAIL_MAX];
    size_t tail_bytes;
    bool has_changed; /* a state to report */
};
void server_init(struct server *s);
/* Takes argv, envp and strings over. 0, or an errno: not started (E2BIG, ENOENT, EACCES ...), and forgotten.
 */
int server_start(struct server *s, char **argv, char **envp, char *strings, size_t strings_bytes);
void server_restart(struct server *s);
void server_stop(struct server *s, int64_t grace_ms); /* everything inside; then the process ends */
void server_signal(struct server *s, int signal);
void server_on_child(struct server *s, pid_t pid, int status);
void server_on_output(struct server *s);
void server_on_time(struct server *s);
int64_t server_due(const struct server *s); /* INT64_MAX: nothing planned */

/* --- control.c: the connection to Reeve --- */
#define CONTROL_POLLS (INIT_CONNECTS_MAX + 1)
struct control;
struct control *control_new(const char *path, int door_fd, struct server *server);
size_t control_polls(struct control *c, struct pollfd *polls); /* fills at most CONTROL_POLLS */
void control_on_polls(struct control *c, const struct pollfd *polls, size_t n);
void control_on_time(struct control *c);
int64_t control_due(const struct control *c);
void control_report(struct control *c); /* the server's state changed */

#endif
