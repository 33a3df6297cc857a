/* redis_script: what runs inside Redis. A script runs whole, alone and from one moment of Redis' clock: that
 * is what makes a commit all or nothing and a read consistent. All keys of a call carry one hash tag, so
 * Redis Cluster runs them too. Written for Redis 5 and later (effects are replicated, not the script). */
#ifndef REEVE_BASE_STORE_REDIS_SCRIPT_H
#define REEVE_BASE_STORE_REDIS_SCRIPT_H

enum redis_script {
    SCRIPT_COMMIT,
    SCRIPT_GET,
    SCRIPT_SCAN,
    SCRIPT_COUNTERS,
    SCRIPT_LOG,
    SCRIPT_COUNT /* how many there are */
};

extern const char *const redis_scripts[SCRIPT_COUNT];

/* Changes kept per partition for watches, about: Redis trims whole nodes of a stream. */
#define REDIS_CHANGES_KEPT 1000

#endif
