/* log: one event a line on stderr. JSON lines for machines, a human form on a terminal.
 *
 * Event names are fixed words ("workspace.ready"); what varies goes into fields. Never log a secret, a prompt
 * or an answer. Library code does not log above debug: who decides, logs, once. */
#ifndef REEVE_BASE_CORE_LOG_H
#define REEVE_BASE_CORE_LOG_H

#include "base/core/clock.h"
#include "base/core/slice.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_form { LOG_FORM_AUTO, LOG_FORM_JSON, LOG_FORM_HUMAN };

enum log_field_kind { LOG_END, LOG_STR, LOG_SLICE, LOG_INT, LOG_BOOL };

struct log_field {
    enum log_field_kind kind;
    const char *name;
    const char *str;
    size_t n;
    int64_t i;
};

#define LF_STR(name, s)   ((struct log_field){LOG_STR, (name), (s), 0, 0})
#define LF_SLICE(name, s) ((struct log_field){LOG_SLICE, (name), (s).p, (s).n, 0})
#define LF_INT(name, v)   ((struct log_field){LOG_INT, (name), NULL, 0, (int64_t)(v)})
#define LF_BOOL(name, v)  ((struct log_field){LOG_BOOL, (name), NULL, 0, (v) ? 1 : 0})

void log_setup(enum log_level least, enum log_form form, int fd, const struct clock *clock);
bool log_is_on(enum log_level level);
void log_fields(enum log_level level, const char *event, const struct log_field *fields);

#define LF_END ((struct log_field){LOG_END, NULL, NULL, 0, 0})

/* log_info("workspace.ready", LF_STR("tenant", t), LF_INT("took_ms", ms)) */
#define log_at(level, event, ...)                                                                            \
    do {                                                                                                     \
        if (log_is_on(level))                                                                                \
            log_fields(level, event, (const struct log_field[]){__VA_ARGS__});                               \
    } while (0)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__, LF_END)
#define log_info(...)  log_at(LOG_INFO, __VA_ARGS__, LF_END)
#define log_warn(...)  log_at(LOG_WARN, __VA_ARGS__, LF_END)
#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__, LF_END)

#endif
