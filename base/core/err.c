/* err: the error list as tables, and the small struct that carries the story upwards.
 *
 * A message that does not fit is cut at a character boundary and ends in "…", so that what is printed stays
 * UTF-8. Codes outside the list (our own mistakes) read as internal errors and are never a crash. */
#include "base/core/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <uv.h>

struct err_row {
    int http;
    const char *name;
    const char *title;
};

static const struct err_row ERR_ROWS[ERR_INDEX_END] = {[ERR_INDEX_OK] = {200, "ok", "OK"},
#define X(name, http, api, title) [ERR_INDEX_##name] = {http, api, title},
                                                       ERR_LIST(X)
#undef X
};

static const struct err_row *err_row(int code)
{
    if (code > 0 || code <= -ERR_INDEX_END)
        code = E_INTERNAL;
    return &ERR_ROWS[-code];
}

/* `msg` holds ERR_MSG_MAX bytes that were cut: ends it with "…" without halving a character. */
static void err_msg_mark_cut(char msg[ERR_MSG_MAX])
{
    static const char MARK[] = "\xe2\x80\xa6";
    size_t at = ERR_MSG_MAX - sizeof(MARK);

    while (at > 0 && ((unsigned char)msg[at] & 0xc0) == 0x80)
        at--;
    memcpy(msg + at, MARK, sizeof(MARK));
}

__attribute__((format(printf, 2, 0))) static void err_msg_print(char msg[ERR_MSG_MAX], const char *fmt,
                                                                va_list ap)
{
    int n = vsnprintf(msg, ERR_MSG_MAX, fmt, ap);

    if (n < 0)
        msg[0] = '\0';
    else if (n >= ERR_MSG_MAX)
        err_msg_mark_cut(msg);
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
    if (err != NULL) {
        /* Printed aside first: an argument may point into err->msg. */
        char msg[ERR_MSG_MAX];
        va_list ap;

        va_start(ap, fmt);
        err_msg_print(msg, fmt, ap);
        va_end(ap);
        memcpy(err->msg, msg, strlen(msg) + 1);
        err->code = code;
    }
    return code;
}

int err_prefix(struct err *err, const char *fmt, ...)
{
    char msg[ERR_MSG_MAX];
    va_list ap;
    size_t n, rest;

    if (err == NULL || err->code == 0)
        return E_INTERNAL;
    va_start(ap, fmt);
    err_msg_print(msg, fmt, ap);
    va_end(ap);
    n = strlen(msg);
    if (err->msg[0] == '\0') {
        memcpy(err->msg, msg, n + 1);
        return err->code;
    }
    if (n + 2 >= ERR_MSG_MAX)
        n = ERR_MSG_MAX - 3;
    msg[n++] = ':';
    msg[n++] = ' ';
    rest = strlen(err->msg);
    if (n + rest < ERR_MSG_MAX) {
        memcpy(msg + n, err->msg, rest + 1);
    } else {
        memcpy(msg + n, err->msg, ERR_MSG_MAX - n);
        err_msg_mark_cut(msg);
    }
    memcpy(err->msg, msg, strlen(msg) + 1);
    return err->code;
}

void err_clear(struct err *err)
{
    if (err != NULL) {
        err->code = 0;
        err->msg[0] = '\0';
    }
}

int err_http_status(int code)
{
    return err_row(code)->http;
}

const char *err_name(int code)
{
    return err_row(code)->name;
}

const char *err_title(int code)
{
    return err_row(code)->title;
}

int err_from_errno(int errnum)
{
    switch (errnum) {
    case 0:
        return E_OK;
    case ENOENT:
    case ESRCH:
    case ENOTDIR:
        return E_NOT_FOUND;
    case EACCES:
    case EPERM:
    case EROFS:
        return E_FORBIDDEN;
    case EEXIST:
        return E_EXISTS;
    case EINVAL:
    case ENAMETOOLONG:
    case EILSEQ:
        return E_INVALID;
    case ENOSPC:
    case EDQUOT:
        return E_NO_SPACE;
    case EFBIG:
    case E2BIG:
    case EMSGSIZE:
        return E_TOO_LARGE;
    case EOVERFLOW:
    case ERANGE:
        return E_OVERFLOW;
    case ENOSYS:
    case EOPNOTSUPP:
    case EAFNOSUPPORT:
    case EPROTONOSUPPORT:
        return E_NOT_IMPLEMENTED;
    case EAGAIN:
    case EINTR:
        return E_AGAIN;
    case EBUSY:
    case ETXTBSY:
    case EADDRINUSE:
    case ENOTEMPTY:
        return E_BUSY;
    case ETIMEDOUT:
        return E_TIMEOUT;
    case ECANCELED:
        return E_CANCELLED;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
        return E_CAPACITY;
    case EPIPE:
    case ECONNRESET:
    case ECONNABORTED:
        return E_EOF;
    case ECONNREFUSED:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EHOSTDOWN:
    case ENETDOWN:
    case ENOTCONN:
    case EADDRNOTAVAIL:
        return E_UNAVAILABLE;
    default:
        return E_IO;
    }
}

int err_from_uv(int uverr)
{
    switch (uverr) {
    case UV_EOF:
        return E_EOF;
    case UV_ECHARSET:
        return E_INVALID;
    case UV_EAI_AGAIN:
    case UV_EAI_FAIL:
    case UV_EAI_NODATA:
    case UV_EAI_NONAME:
    case UV_EAI_ADDRFAMILY:
        return E_UNAVAILABLE;
    case UV_EAI_CANCELED:
        return E_CANCELLED;
    case UV_EAI_MEMORY:
        return E_CAPACITY;
    default:
        /* On Unix the rest are negated errno values. */
        return uverr >= 0 ? E_OK : uverr <= -4096 ? E_IO : err_from_errno(-uverr);
    }
}
