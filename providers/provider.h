/* provider: where sandboxes run, behind one asynchronous interface.
 *
 * Every call has a deadline and fires `done` exactly once, never before it has returned; after the deadline
 * with E_TIMEOUT (or E_UNKNOWN_OUTCOME where the provider may have acted). Calls on one sandbox are made one
 * at a time by the holder of its workspace's lease. Errors are normalised: E_AUTH, E_NOT_FOUND, E_EXISTS (the
 * name is taken), E_BUSY, E_RATE, E_CAPACITY, E_INVALID (cannot pass by waiting), E_UNKNOWN_OUTCOME, E_GONE,
 * E_UNAVAILABLE (the provider is down), E_NO_SPACE, E_TIMEOUT; E_AGAIN (create only): nothing was made, what
 * it needs is on its way, and an event will say when to ask again. */
#ifndef REEVE_PROVIDERS_PROVIDER_H
#define REEVE_PROVIDERS_PROVIDER_H

#include "base/core/err.h"
#include "base/core/i128.h"
#include "base/core/slice.h"
#include "base/net/client.h"
#include "base/net/loop.h"

struct provider;

#define SANDBOX_HOME        "/home/agent" /* where the home volume is inside, everywhere */
#define SANDBOX_SERVER_PORT 2468          /* of the sandbox-agent server inside */
#define SANDBOX_DOOR_PORT   8700          /* of the door, on the sandbox's own 127.0.0.1 */

/* Whose sandbox it is. Carried by the provider as labels; all texts [A-Za-z0-9._-]. */
struct sandbox_labels {
    struct slice controller; /* id of this Reeve installation (random, made with the store) */
    struct slice tenant, namespace, name, workspace; /* `workspace`: the workspace's id */
    uint64_t generation;
    uint64_t attempt;
    uint64_t epoch;
};

enum sandbox_state {
    SANDBOX_ABSENT,
    SANDBOX_CREATED, /* made, not started */
    SANDBOX_RUNNING,
    SANDBOX_SUSPENDED,
    SANDBOX_EXITED, /* ended by itself; `reason` says how */
};
struct sandbox_info {
    struct slice id; /* the provider's handle; here also its name */
    struct sandbox_labels labels;
    enum sandbox_state state;
    struct slice reason;
    int64_t created_at_ms;
};

struct sandbox_env {
    struct slice name, value;
};
struct sandbox_spec {
    struct slice id; /* the wished name, from workspace id and generation */
    struct sandbox_labels labels;
    struct slice home_id; /* names the home volume (the workspace id) */
    struct slice image;
    i128 cpus_milli; /* 0: no limit, here and below */
    uint64_t memory_bytes, disk_bytes, processes;
};
/* What the server inside is started with; secrets: kept in memory only, wiped after use. */
struct sandbox_server {
    const struct sandbox_env *env;
    size_t n_env;
    struct slice token; /* for the server's --token */
    uint16_t port;      /* 2468 */
};

struct provider_caps {
    bool has_client_name; /* a second create of the same id is refused: E_EXISTS */
    bool suspend_keeps_memory;
    bool is_list_consistent;
    bool is_sealed; /* sockets cross the wall; model calls come through a door */
    bool outlives_controller;
    const char
        *limits_note; /* what of cpus/memory/disk/processes this machine does not enforce; "" when all are */
};

/* Stop ends the processes and frees their memory. Freeze keeps both, and is quick; a provider whose
 * suspend_keeps_memory is false stops all the same. */
enum suspend_kind { SUSPEND_STOP, SUSPEND_FREEZE };

struct sandbox_usage {
    uint64_t cpu_ms;       /* of all its processes, since it was started */
    uint64_t memory_bytes; /* now, with files in memory */
};

typedef void (*provider_usage_cb)(int code, const struct sandbox_usage *usage, const struct err *err,
                                  void *data);
typedef void (*provider_done_cb)(int code, const struct err *err, void *data);
typedef void (*provider_info_cb)(int code, const struct sandbox_info *info, const struct err *err,
                                 void *data);
typedef void (*provider_list_cb)(int code, const struct sandbox_info *items, size_t n, const struct err *err,
                                 void *data);

/* A connection from inside that arrived at the sandbox's door. The stream is the receiver's. */
typedef void (*provider_door_cb)(struct slice sandbox_id, struct slice workspace_id, struct stream *s,
                                 void *data);
/* Something changed that describe would show (exit, server restarts). A hint: look again. */
typedef void (*provider_event_cb)(struct slice sandbox_id, struct slice workspace_id, const char *what,
                                  void *data);
#define PROVIDER_EVENT_AGAIN "again" /* after a create that was answered E_AGAIN: ask again now */
/* How far what a create waits for is: a sentence for people. */
typedef void (*provider_progress_cb)(struct slice sandbox_id, struct slice workspace_id, const char *text,
                                     void *data);

struct provider_ops {
    const struct provider_caps *(*caps)(struct provider *p);
    /* Makes the sandbox and its home volume; not started. */
    void (*create)(struct provider *p, const struct sandbox_spec *spec, int64_t timeout_ms,
                   provider_done_cb done, void *data);
    /* state SANDBOX_ABSENT with code 0 when there is none. */
    void (*describe)(struct provider *p, struct slice id, int64_t timeout_ms, provider_info_cb done,
                     void *data);
    /* All sandboxes whose label `controller` is that. */
    void (*list)(struct provider *p, struct slice controller, int64_t timeout_ms, provider_list_cb done,
                 void *data);
    /* Starts the sandbox if it is not running and the server in it; done when the server's process was
     * started (not yet healthy). Also for an adopted, running sandbox: reaches its init again; the server is
     * left alone when it runs. */
    void (*start)(struct provider *p, struct slice id, const struct sandbox_server *server,
                  int64_t timeout_ms, provider_done_cb done, void *data);
    void (*suspend)(struct provider *p, struct slice id, enum suspend_kind kind, int64_t timeout_ms,
                    provider_done_cb done, void *data);
    /* After suspend: as start. */
    void (*resume)(struct provider *p, struct slice id, const struct sandbox_server *server,
                   int64_t timeout_ms, provider_done_cb done, void *data);
    /* Ends and removes the sandbox; absent is success. The home volume stays. */
    void (*destroy)(struct provider *p, struct slice id, int64_t timeout_ms, provider_done_cb done,
                    void *data);
    void (*destroy_home)(struct provider *p, struct slice home_id, int64_t timeout_ms, provider_done_cb done,
                         void *data);
    /* From the kernel's accounts. E_GONE: it does not run; E_UNAVAILABLE: this machine keeps no account of
     * it. */
    void (*usage)(struct provider *p, struct slice id, int64_t timeout_ms, provider_usage_cb done,
                  void *data);
    /* A connector to a TCP port inside; valid until the sandbox is destroyed and the connector released. */
    struct connector *(*connector)(struct provider *p, struct slice id, uint16_t port);
    void (*connector_release)(struct provider *p, struct connector *c);
    void (*close)(struct provider *p, void (*closed)(void *data), void *data); /* lets go; sandboxes go on */
};

struct provider {
    const struct provider_ops *ops;
    struct slice name; /* as configured */
    provider_door_cb on_door;
    provider_event_cb on_event;
    provider_progress_cb on_progress; /* may be NULL */
    void *data;                       /* for the three */
};

/* --- local: bubblewrap on this host --- */
struct local_options {
    struct slice name;
    const char *root;         /* folder for sandboxes and homes; absolute; made when absent */
    const char *init_path;    /* the static reeve-init binary */
    const char *agent_binary; /* the sandbox-agent server */
    uint32_t uid_first, uid_count;
};
/* 0, or E_INVALID / E_UNAVAILABLE saying what is missing on this machine. */
int provider_local_open(struct loop *l, const struct local_options *o, struct provider **ret,
                        struct err *err);

/* --- docker: sealed containers of a Docker engine on this host --- */
struct docker_options {
    struct slice name;
    const char *endpoint;     /* "unix:///var/run/docker.sock" */
    const char *root;         /* folder for the sandboxes' sockets; absolute; made when absent */
    const char *init_path;    /* the static reeve-init binary */
    const char *agent_binary; /* the sandbox-agent server */
};
/* 0, or E_INVALID / E_UNAVAILABLE saying what is missing on this machine. Does not ask the engine: while that
 * is away, calls answer E_UNAVAILABLE. */
int provider_docker_open(struct loop *l, const struct docker_options *o, struct provider **ret,
                         struct err *err);

#endif
