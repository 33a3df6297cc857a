/* entry: a workspace as the scheduler holds it, and the parts of the scheduler that its files share.
 *
 * `struct workspace` (what others see) is the first member of `struct entry`. The durable part that changes
 * is `struct fact`; it is changed only by entry_change: edit a draft, commit it, and only then take it into
 * memory, so that memory never runs ahead of the store. */
#ifndef REEVE_SCHEDULER_ENTRY_H
#define REEVE_SCHEDULER_ENTRY_H

#include <utlist.h>

#include "base/core/id.h"
#include "base/net/loop.h"
#include "base/core/hash.h"
#include "scheduler/scheduler.h"

#define REASON_MAX      512  /* bytes of a reason, NUL included */
#define LABELS_MAX      64   /* labels of a workspace */
#define ENV_MAX         128  /* variables of a workspace */
#define PAIR_NAME_MAX   128  /* bytes of a label's or variable's name */
#define PAIR_VALUE_MAX  4096 /* bytes of its value */
#define USER_MAX        256
#define WAITS_MAX       20000 /* callers waiting at one time; beyond: answered without waiting */
#define START_QUEUE_MAX 10000 /* starts waiting for their turn; beyond: E_CAPACITY for new workspaces */
#define BOOT_PARALLEL   64    /* workspaces looked at together after a start of the controller */
#define FAILURES_TO_FAILED                                                                                   \
    5 /* passing failures in a row until the state is `failed` (it is retried still)                         \
       */
#define BREAKER_FAILURES   5
#define SERVER_PORT        2468
#define COMMIT_DEADLINE_MS 10000 /* for a caller whose commit does not answer */

enum renewal { RENEW_NO, RENEW_SANDBOX, RENEW_CREDENTIALS };

/* What is known of the present LLM key at its gateway; durable before the gateway is asked, so that a crash
 * never leaves a key there that no record names. */
enum key_state {
    KEY_NONE,    /* never sent there */
    KEY_SENT,    /* may be there */
    KEY_LIVE,    /* is there and good */
    KEY_UNSURE,  /* is there, blocked or not */
    KEY_BLOCKED, /* is there, good for nothing */
};

/* The durable part that changes. Texts are interned. */
struct fact {
    enum workspace_wish wish;
    enum suspend_cause cause;
    enum workspace_state state;
    enum renewal renew; /* the present sandbox is to go; then the next generation begins */
    uint64_t generation, attempt;
    struct slice provider;
    bool is_pinned;   /* its home is (or may be) at this provider: never another */
    bool has_sandbox; /* this generation was started */
    bool is_asleep;   /* suspended, and the provider has confirmed it */
    bool is_frozen;   /* … and its processes are still there: until it was started again */
    bool is_final;    /* failed for a reason that waiting does not mend */
    bool keeps_home;  /* deleting: the home stays */
    int64_t updated_at_ms, ready_at_ms, retry_at_ms;
    uint64_t event_seq;
    enum key_state key_state;
    struct slice key_gateway;     /* the gateway that the present LLM key was made for; empty: none */
    struct slice old_key_gateway; /* … and the one that is still to be revoked */
    enum key_state old_key_state; /* … there */
};

/* Credentials of one generation: texts, and as they rest in the record. Wiped by secrets_fini. */
struct secrets {
    char token[80];
    char llm_key[LLM_KEY_TEXT_MAX];
    char llm_key_hash[SHA256_HEX_SIZE];
    char *sealed_token, *sealed_key; /* base64url; NULL: as before */
};

struct draft {
    struct fact fact;
    char reason[REASON_MAX];
    struct secrets *fresh; /* new credentials; the change's */
    bool forgets_old_key;  /* the former LLM key is revoked */
    bool is_bounded;       /* quotas hold for what this change adds */
    bool is_removal;       /* the record goes */
};

struct entry;
struct work;
struct tenant;

/* What an edit needs beside the draft; copied with the change. */
struct edit {
    enum workspace_state state;
    enum suspend_cause cause;
    enum renewal renew;
    bool keep_home, is_final, is_frozen;
    int64_t retry_at_ms;
    struct slice provider;
    enum key_state key_state;
    char *reason;            /* owned by the change; NULL: "" */
    struct secrets *secrets; /* owned by the change */
};
/* 0: commit the draft; EDIT_NOTHING: it is so already (done gets 0); < 0: refused, done gets the code. */
#define EDIT_NOTHING 1
typedef int (*edit_fn)(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
/* Code 0: durable and in memory. May fire before entry_change has returned. */
typedef void (*saved_fn)(struct entry *e, int code, const struct err *err, void *data);

struct change {
    edit_fn edit;
    struct edit args;
    saved_fn done;
    void *data;
    struct change *next;
};

struct entry {
    struct workspace ws; /* first */
    struct scheduler *s;
    struct tenant *tenant;
    struct fact fact;
    struct slice home_id;        /* the workspace's id, or that of the workspace whose home it took up */
    struct slice provider_asked; /* interned; empty: the template's choice */
    char *text;                  /* memory of the texts that never change */
    char *reason;                /* behind ws.reason; NULL: "" */
    char *sealed_token, *sealed_key, *old_key_hash; /* the last: an LLM key still to be revoked */
    char sandbox_name[64];                          /* of the present generation */
    uint64_t commit_seq; /* of the commit in flight, to know it again in a record read back */
    UT_hash_handle hh;   /* by id */

    struct change *changes; /* waiting, the first one maybe in flight */
    struct workspace_wait *waits;
    struct work *work; /* the step in flight */
    struct connector *connector;
    struct entry *boot_prev, *boot_next;
    int64_t touched_ms, ready_ms, retry_ms, due_ms, healing_ms; /* monotonic */
    int64_t doubt_ms, doubt_next_ms; /* monotonic: the last one that counted; none is acted on before */
    uint32_t due_at;                 /* place in the heap + 1; 0: not in */
    uint32_t holds;
    uint16_t failures;     /* in a row */
    uint16_t doubts;       /* in a row; doubt.c */
    uint16_t key_failures; /* in a row, while it is ready; llm_key.c */
    uint16_t commit_tries;
    bool is_new;      /* its first commit is under way: not yet there for others */
    bool is_doubtful; /* … and its outcome is unknown */
    bool is_saving;
    bool is_kicked;       /* look at it again when what is under way has ended */
    bool is_reached;      /* this process has seen its server healthy */
    bool is_attempt_used; /* create may have been called with this attempt */
    bool is_key_live;     /* the gateway has just confirmed the key; not yet in the record */
    bool is_key_revoked;  /* deleting: this process has recorded that its keys are to be revoked */
    bool has_doubt;       /* a provider's event waits for doubt_next_ms */
    bool wants_look;      /* the next pass looks though it is at rest */
    bool is_hearsay;      /* … on the word of the edge */
    bool in_boot_queue, is_boot;
    struct home *home; /* being taken up by the first commit */
};

struct home {  /* one that outlived its workspace */
    char *key; /* "<namespace>/<name>" */
    char *id;  /* home_id at the provider */
    struct slice provider;
    uint64_t version;
    bool is_taken; /* a commit in flight takes it up */
    UT_hash_handle hh;
};

struct tenant {
    struct scheduler *s;
    char *name, *id;
    const struct config_tenant *config; /* NULL: no longer configured */
    struct entry **roster;              /* by (namespace, name) */
    size_t n, cap;
    size_t by_state[8];
    struct home *homes;
    bool is_loaded, is_loading;
    bool has_unread; /* a record could not be understood: nothing of this tenant is swept */
    bool is_unsorted;
    char *load_after;
    bool load_homes;
    int64_t bucket_milli; /* creates allowed now × 1000 */
    int64_t bucket_ms;
    struct work *queue; /* of those that wait for a turn to start */
    struct tenant *ring_prev, *ring_next;
    bool in_ring;
    UT_hash_handle hh;    /* by name */
    UT_hash_handle hh_id; /* by id */
};

/* A provider as the scheduler sees it. */
struct place {
    struct provider *p;
    struct slice name;
    unsigned failures;     /* in a row */
    int64_t open_until_ms; /* monotonic; 0: closed */
    int64_t open_ms;
    bool is_probing;
    char last[256];
    bool is_listing;
};

struct name { /* interned */
    UT_hash_handle hh;
    size_t n;
    char text[];
};

struct sweep;
struct revoker;

struct scheduler {
    struct scheduler_options o;
    struct loop *loop;
    struct store *store;
    struct tenancy *tenancy;
    char *controller;
    char writer[40]; /* this process, in records: tells our commit from another's */
    uint64_t commits;
    struct tenant *tenants, *tenants_by_id;
    struct entry *by_id;
    struct place *places;
    size_t n_places;
    struct name *names;
    struct entry **due;
    size_t n_due, cap_due;
    struct timer timer;
    unsigned starts_free;
    size_t n_queued;
    bool is_pumping;
    struct tenant *ring;
    struct entry *boot;
    unsigned n_boot;
    bool is_boot_pump_due;
    size_t n_waits;
    struct workspace_wait *all_waits;
    struct sweep *sweep;
    struct revoker *revoker;
    struct scheduler_stats stats;
    size_t n_entries;
    /* start */
    scheduler_done_cb start_done;
    void *start_data;
    size_t n_loading;
    struct err start_err;
    bool is_started, is_closing, is_closed_told, is_finishing;
    /* close */
    void (*closed)(void *data);
    void *closed_data;
    struct timer close_timer;
    size_t n_busy;     /* work, commits, look-ups whose callbacks will still come */
    unsigned n_timers; /* handles still open while closing */
};

static inline int64_t now_mono(const struct scheduler *s)
{
    return clock_mono_ms(s->loop->clock);
}
static inline int64_t now_wall(const struct scheduler *s)
{
    return clock_wall_ms(s->loop->clock);
}
struct slice scheduler_intern(struct scheduler *s, struct slice text);
void scheduler_busy(struct scheduler *s);
void scheduler_idle(struct scheduler *s); /* the last one ends the close */

/* --- entry.c --- */
struct entry_texts {
    struct slice namespace, name, template, user, provider_asked, home_id;
    const struct workspace_pair *labels, *env;
    size_t n_labels, n_env;
};
struct entry *entry_new(struct tenant *t, struct slice id, const struct entry_texts *x);
void entry_free(struct entry *e);
/* Takes the draft's content into memory; tells on_change and the waiters. */
void entry_take(struct entry *e, const struct draft *d, uint64_t version);
/* Makes ws.* agree with fact and is_reached; `is_told`: on_change when something visible changed. */
void entry_view(struct entry *e, bool is_told);
void entry_reason(struct entry *e, const char *reason);
/* A reason that is not worth a commit: shown, but not recorded. */
void entry_note(struct entry *e, const char *reason);
void entry_draft(const struct entry *e, struct draft *d);
void entry_secrets_take(struct entry *e, struct secrets *x);
void entry_disconnect(struct entry *e);

/* --- roster.c: a tenant's workspaces in order --- */
struct entry *roster_find(const struct tenant *t, struct slice namespace, struct slice name);
void roster_add(struct entry *e);
void roster_drop(struct entry *e);
void roster_sort(struct tenant *t);
struct tenant *tenant_find(struct scheduler *s, struct slice name);
void tenants_update(struct scheduler *s); /* from the tenancy */
void tenants_free(struct scheduler *s);

/* --- due.c: one timer for all --- */
void due_set(struct entry *e, int64_t at_ms);
void due_clear(struct entry *e);
void on_due_timer(void *scheduler);

/* --- record.c --- */
int record_write(const struct entry *e, const struct draft *d, uint64_t commit_seq, struct buf *out);
/* A new entry (not in any table) or NULL. */
struct entry *record_read(struct tenant *t, struct slice value, uint64_t version, struct err *err);
/* Is this text the one that commit `seq` of this process wrote? */
bool record_is_commit(const struct scheduler *s, struct slice value, uint64_t seq);
void record_key(char out[160], struct slice namespace, struct slice name);
void state_event_write(const struct entry *e, const struct draft *d, struct buf *out);
/* Replaces what the entry knows by what another one (read from the store) says. */
void entry_replace(struct entry *e, struct entry *by);

/* --- save.c --- */
void entry_change(struct entry *e, edit_fn edit, const struct edit *args, saved_fn done, void *data);
void changes_fail(struct entry *e, int code, const char *why);

/* --- credentials.c --- */
int env_check(const struct workspace_pair *env, size_t n, struct err *err);
int labels_check(const struct workspace_pair *labels, size_t n, struct err *err);
/* A new token, a new LLM key, or both. */
struct secrets *secrets_new(struct entry *e, bool with_token, bool with_key);
void secrets_free(struct secrets *x);
int token_open(struct entry *e, struct err *err); /* into ws.server_token */
int llm_key_open(const struct entry *e, char out[LLM_KEY_TEXT_MAX], struct err *err);
/* The environment of the server, into the arena (contains the key). */
int server_env(struct entry *e, const struct config_template *t, const char *llm_key, struct arena *a,
               struct sandbox_server *ret);
typedef void (*key_done_fn)(struct entry *e, int code, const struct err *err, void *data);
/* Records in partition fleet a key that is about to be used. */
void llm_key_record(struct entry *e, const char *hash, key_done_fn done, void *data);
/* Marks keys as revoked there: the former one, and (all) the present one. In the same commit: what is still
 * to be revoked at their gateways; the revoker does the rest. */
void llm_keys_revoke(struct entry *e, bool all, key_done_fn done, void *data);
/* The present key is to be revoked at its gateway, because the tenant has left that; it stays valid. */
void llm_key_revoke_there(struct entry *e, key_done_fn done, void *data);
void llm_key_forget(struct entry *e,
                    const char *hash); /* it never left: the record is removed, no answer awaited */

/* --- llm_key.c: the present LLM key at its gateway --- */
enum key_step {
    KEY_STEP_NONE, /* all is as it should be, or not yet to be changed */
    KEY_STEP_MOVE, /* the tenant's calls go to another gateway now */
    KEY_STEP_SEND, /* to be recorded as perhaps there */
    KEY_STEP_MAKE,
    KEY_STEP_UNBLOCK,
    KEY_STEP_RENEW, /* a new server process gets a new key */
    KEY_STEP_BLOCK,
};
enum key_step llm_key_step(const struct entry *e);
void llm_key_begin(struct entry *e, enum key_step step); /* a pass of its own */
/* The gateway of the entry's tenant now; empty: none. */
struct slice llm_key_gateway(const struct entry *e, bool *ret_is_managed);

/* --- revoke.c: keys that are still to be revoked at their gateways --- */
struct revoker *revoker_new(struct scheduler *s);
void revoker_start(struct revoker *r);
void revoker_kick(struct revoker *r, struct slice gateway); /* there is a new one */
void revoker_reload(struct revoker *r);                     /* what failed may go now */
size_t revoker_pending(const struct revoker *r);
void revoker_close(struct revoker *r);
void revoker_free(struct revoker *r);
/* The record in partition fleet: "revoke/<gateway>/<hash>". */
#define REVOKE_KEY_MAX 160
void revoke_key(char out[REVOKE_KEY_MAX], struct slice gateway, const char *hash);

/* --- places.c --- */
struct place *place_find(struct scheduler *s, struct slice name);
/* The provider for a first create: asked, or the template's first that is not backing off; NULL and a reason.
 */
struct place *place_choose(struct scheduler *s, const struct config_template *t, struct slice asked,
                           struct slice not_this, struct err *err);
bool place_allows(struct scheduler *s, struct place *p, int64_t *ret_wait_ms);
void place_result(struct scheduler *s, struct place *p, int code, const struct err *err);
void start_ask(struct work *w, void (*on_turn)(struct work *w));
void start_release(struct work *w);

/* --- reconcile.c --- */
struct work {
    struct entry *e;
    struct scheduler *s;
    struct place *place;
    struct work *prev, *next; /* in the tenant's queue */
    void (*on_turn)(struct work *w);
    bool has_turn, is_queued;
    bool has_created; /* create was answered in this pass */
    bool has_suspended, has_destroyed;
    bool is_resume, was_running; /* what the sandbox was when it was started */
    struct arena arena;
    char llm_key[LLM_KEY_TEXT_MAX];
    struct secrets *fresh; /* while their hash is being recorded */
    bool is_key_unblock;   /* llm_key.c: what the gateway was asked */
    /* health.c */
    bool has_timer;
    struct timer timer;
    struct http_pool *probe; /* health's own connections: the traffic's may all be taken */
    struct http_call *call;
    unsigned health_failures; /* questions that got no good answer */
    int64_t health_until_ms, health_delay_ms;
    int health_status;
    bool is_healing; /* between health_start and on_health */
    struct err last;
};
struct work *work_new(struct entry *e, struct place *p);
void work_free(struct work *w); /* the pass is over; only after the entry was removed: else work_end */
void work_end(struct work *w);  /* the pass is over: look whether another one is needed */
/* The pass has failed: the reason is shown, the next one comes after a backoff (or never, when waiting mends
 * nothing). place NULL: it was not the provider. `renew`: the next one begins with a fresh sandbox. */
void work_fail(struct work *w, const char *doing, int code, const struct err *err);
void work_fail_renew(struct work *w, const char *doing, int code, const struct err *err, enum renewal renew);
/* Not a failure: the provider said E_AGAIN to a create. The next pass comes with its event. */
void work_wait(struct work *w, const struct err *err);
int64_t work_backoff_ms(struct scheduler *s, unsigned failures);
/* `done` of a change after which the pass is made anew; `data` is the work. */
void on_step_saved(struct entry *e, int code, const struct err *err, void *data);
void remove_keys(struct entry *e); /* removal.c: the first pass of one that is to be deleted */
void remove_begin(struct work *w); /* removal.c: a pass of one that is to be deleted */
void reconcile_kick(struct entry *e);
void reconcile_due(struct entry *e);
bool reconcile_is_at_rest(const struct entry *e);
void boot_done(struct entry *e);          /* boot.c: it rests or waits for its time */
void reconcile_boot(struct scheduler *s); /* looks at all that are not at rest, BOOT_PARALLEL at a time */
void reconcile_stop_all(struct scheduler *s);
int64_t reconcile_idle_after(const struct entry *e); /* ms; 0: never */
void reconcile_rest(struct entry *e); /* nothing to do but to wait for its idle time, or a doubt's */

/* --- doubt.c --- */
/* A provider's event: look at it again though it seems well; `reason` until it is. */
void doubt_event(struct entry *e, const char *reason);
void doubt_suspect(struct entry *e);                    /* a call to its server went wrong */
void doubt_failed(struct entry *e, const char *reason); /* the look at a ready one found it unwell */
void doubt_later(struct entry *e, int64_t after_ms);    /* its provider is left alone: look then */
void doubt_reset(struct entry *e);                      /* another sandbox */
bool doubt_due(struct entry *e);                        /* its time has come; true: it is being looked at */

/* --- health.c --- */
void health_drop(struct work *w); /* its server is let go of */
void health_start(struct work *w);
void health_stop(struct work *w);
void on_health(struct work *w, int code, const struct err *err); /* reconcile.c */

/* --- edits.c: the changes there are --- */
int edit_delete(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_suspend(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_asleep(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_run(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_restart(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_retry(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_attempt(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_move_provider(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_pinned(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_generation(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_started(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_ready(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_failure(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_key_state(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_key_blocked(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_key_moved(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_key_renewed(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_old_key_revoked(struct entry *e, struct draft *d, const struct edit *x, struct err *err);
int edit_remove(struct entry *e, struct draft *d, const struct edit *x, struct err *err);

/* --- waits.c --- */
enum wait_kind { WAIT_FIND, WAIT_DELETE, WAIT_SUSPEND, WAIT_RUN, WAIT_WAKE };
enum wait_phase {
    WAIT_BEGIN,  /* the call has not returned */
    WAIT_COMMIT, /* for durability */
    WAIT_GONE,   /* for the delete to end; then the request is made again */
    WAIT_SETTLE,
    WAIT_DECIDED, /* the answer goes out in a later turn */
    WAIT_OVER,
};
struct workspace_wait {
    struct scheduler *s;
    struct entry *e;                            /* NULL: none (any more) */
    struct workspace_wait *prev, *next;         /* the entry's */
    struct workspace_wait *all_prev, *all_next; /* the scheduler's */
    enum wait_kind kind;
    enum wait_phase phase;
    bool is_creator, is_cancelled, is_starting, has_timer;
    unsigned pins; /* callbacks that will still come with this wait */
    int code;
    struct err *err;
    int64_t wait_ms, until_ms;
    workspace_answer_cb cb;
    void *data;
    struct timer timer;
    struct arena arena;                /* of the request's copy */
    struct workspace_request *request; /* to be made again */
};
struct workspace_wait *wait_new(struct scheduler *s, enum wait_kind kind, int64_t wait_ms,
                                workspace_answer_cb cb, void *data);
struct workspace_wait *wait_begun(struct workspace_wait *w); /* what the public call returns */
void wait_attach(struct workspace_wait *w, struct entry *e, enum wait_phase phase);
void wait_decide(struct workspace_wait *w, int code, const struct err *err); /* `err` may be NULL */
void wait_keep_request(struct workspace_wait *w, const struct workspace_request *r);
/* For the `done` of a change: durable, now wait for the rest. `data` is the wait, pinned by wait_pin. */
void wait_pin(struct workspace_wait *w);
void on_wait_saved(struct entry *e, int code, const struct err *err, void *data);
void waits_look(struct entry *e);
void waits_gone(struct entry *e); /* the entry is about to be freed */
void waits_fail(struct entry *e, enum wait_phase phase, int code, const struct err *err);
void waits_again(struct entry *e, enum wait_phase phase); /* makes the kept requests again */
void waits_close(struct scheduler *s);

/* --- create.c --- */
int find_or_create(struct scheduler *s, const struct workspace_request *r, struct workspace_wait *w,
                   struct err *err);
void create_look_again(struct entry *e); /* a doubtful one */
/* Makes a workspace that is already being deleted of a kept home; false when there is none. */
bool home_delete(struct tenant *t, struct slice namespace, struct slice name, struct workspace_wait *w);

/* --- load.c --- */
void load_tenant(struct tenant *t);     /* or goes on where it failed */
void load_missing(struct scheduler *s); /* scheduler.c: those that are not there yet */
void load_ended(struct scheduler *s, struct tenant *t, int code, const struct err *err); /* scheduler.c */

/* --- sweep.c --- */
struct sweep *sweep_new(struct scheduler *s);
void sweep_start(struct sweep *w);
void sweep_close(struct sweep *w);
void sweep_free(struct sweep *w);

#endif
