/* engine: see engine.h.
 *
 * Happy path: one keep-alive connection to the socket, one call after the other. Failure paths: an engine
 * that refuses an upload answers before it has read it all; curl then stops sending and hands over the
 * answer, and when the connection broke first, that is what is said. */
#include "controller/cli/engine.h"

#include "base/core/mem.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ANSWER_MAX    ((size_t)16 * 1024 * 1024)
#define CALL_MS       (5 * 60 * 1000L)
#define UPLOAD_MS     (30 * 60 * 1000L)
#define VERSION_LEAST 41 /* 1.41: Docker 20.10 */
#define VERSION_MOST  47

struct upload {
    struct tar *tar;
    int fd;
    struct err err;
};

static size_t on_bytes(char *p, size_t size, size_t n, void *data)
{
    return buf_append(data, p, size * n) == 0 ? size * n : 0;
}

static size_t on_upload(char *p, size_t size, size_t n, void *data)
{
    struct upload *u = data;
    ssize_t got = u->tar != NULL ? tar_read(u->tar, p, size * n, &u->err) : read(u->fd, p, size * n);
    if (got < 0 && u->tar == NULL)
        (void)err_set(&u->err, err_from_errno(errno), "%s", strerror(errno));
    return got < 0 ? CURL_READFUNC_ABORT : (size_t)got;
}

static int why_unreachable(const struct engine *e, CURLcode code, const char *detail, struct err *err)
{
    struct stat st;
    if (code == CURLE_OPERATION_TIMEDOUT)
        return err_set(err, E_TIMEOUT, "unix://%s: no answer in time", e->socket);
    if (code == CURLE_COULDNT_CONNECT && stat(e->socket, &st) != 0)
        return err_set(err, E_UNAVAILABLE, "unix://%s: %s; is the engine running?", e->socket,
                       strerror(errno));
    if (code == CURLE_COULDNT_CONNECT && access(e->socket, W_OK) != 0)
        return err_set(err, E_UNAVAILABLE, "unix://%s: %s; may this user use the engine?", e->socket,
                       strerror(errno));
    return err_set(err, E_UNAVAILABLE, "unix://%s: %s", e->socket,
                   detail[0] != '\0' ? detail : curl_easy_strerror(code));
}

/* An answer of 400 and more, in the engine's words. */
static int refusal(const struct engine_answer *a, struct err *err)
{
    struct slice said = json_string(json_get(a->json, "message"));
    char text[512];
    int code = a->status == 404   ? E_NOT_FOUND
               : a->status == 409 ? E_CONFLICT
               : a->status < 500  ? E_INVALID
                                  : E_UPSTREAM;
    if (said.p == NULL)
        said = buf_view(&a->body);
    (void)snprintf(text, sizeof text, "%.*s", SL_ARG(slice_trim(said)));
    for (char *p = text; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = ' ';
    if (strstr(text, "no space left on device") != NULL)
        return err_set(err, E_NO_SPACE, "the engine's disk is full: %s", text);
    return err_set(err, code, "the engine answered %d: %s", a->status, text);
}

static int send_call(struct engine *e, struct upload *u, const char *method, const char *path,
                     const struct engine_body *body, struct engine_answer *ret, struct err *err)
{
    CURL *h = e->curl;
    char url[2048], why[CURL_ERROR_SIZE] = "";
    struct curl_slist *headers = curl_slist_append(NULL, "Expect:");
    struct stat st;
    long status = 0;
    curl_easy_reset(h);
    (void)snprintf(url, sizeof url, "http://engine%s%s", e->version, path);
    (void)curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, e->socket);
    (void)curl_easy_setopt(h, CURLOPT_URL, url);
    (void)curl_easy_setopt(h, CURLOPT_PROXY, "");
    (void)curl_easy_setopt(h, CURLOPT_ERRORBUFFER, why);
    (void)curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, 5000L);
    (void)curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, CALL_MS);
    (void)curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_bytes);
    (void)curl_easy_setopt(h, CURLOPT_WRITEDATA, (void *)&ret->body);
    if (body->json.p != NULL) {
        headers = curl_slist_append(headers, "Content-Type: application/json");
        (void)curl_easy_setopt(h, CURLOPT_POSTFIELDS, body->json.p);
        (void)curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->json.n);
    } else if (u->tar != NULL || u->fd >= 0) {
        curl_off_t bytes = u->tar != NULL           ? (curl_off_t)tar_bytes(u->tar)
                           : fstat(u->fd, &st) == 0 ? st.st_size
                                                    : -1;
        headers = curl_slist_append(headers, "Content-Type: application/x-tar");
        (void)curl_easy_setopt(h, CURLOPT_UPLOAD, 1L);
        (void)curl_easy_setopt(h, CURLOPT_INFILESIZE_LARGE, bytes);
        (void)curl_easy_setopt(h, CURLOPT_READFUNCTION, on_upload);
        (void)curl_easy_setopt(h, CURLOPT_READDATA, (void *)u);
        (void)curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, UPLOAD_MS);
    } else if (strcmp(method, "POST") == 0) {
        (void)curl_easy_setopt(h, CURLOPT_POSTFIELDS, "");
    } else if (strcmp(method, "HEAD") == 0) {
        (void)curl_easy_setopt(h, CURLOPT_NOBODY, 1L);
    }
    (void)curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, method);
    (void)curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
    CURLcode code = curl_easy_perform(h);
    (void)curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    ret->status = (int)status;
    if (u->err.code != 0) {
        *err = u->err;
        return err->code;
    }
    /* the answer to an upload that was not taken whole counts, however the sending ended */
    if (code != CURLE_OK && status < 400)
        return why_unreachable(e, code, why, err);
    return 0;
}

int engine_call(struct engine *e, const char *method, const char *path, const struct engine_body *body,
                struct engine_answer *ret, struct err *err)
{
    static const struct engine_body nothing = {0};
    struct upload u = {.fd = -1};
    *ret = (struct engine_answer){.body = BUF_INIT(ANSWER_MAX)};
    if (body == NULL)
        body = &nothing;
    u.tar = body->tar;
    if (body->file != NULL && (u.fd = open(body->file, O_RDONLY | O_CLOEXEC)) < 0) {
        int e2 = errno;
        return err_set(err, err_from_errno(e2), "%s: %s", body->file, strerror(e2));
    }
    int code = send_call(e, &u, method, path, body, ret, err);
    if (u.fd >= 0)
        (void)close(u.fd); /* was only read */
    if (code == 0 && ret->body.n > 0)
        (void)json_parse(buf_view(&ret->body), NULL, &ret->json, NULL); /* an archive, say: json stays NULL */
    if (code == 0 && ret->status >= 400)
        code = refusal(ret, err);
    if (code != 0)
        engine_answer_fini(ret);
    return code;
}

void engine_answer_fini(struct engine_answer *a)
{
    buf_fini(&a->body);
    json_free(a->json);
    a->json = NULL;
}

/* "1.41" as 41; 0 for anything else. */
static unsigned minor(struct slice version)
{
    uint64_t n = 0;
    struct slice major;
    if (!slice_cut(&version, '.', &major) || !slice_eq_str(major, "1") || slice_u64(version, &n) != 0 ||
        n > 9999)
        return 0;
    return (unsigned)n;
}

static void keep(char *to, size_t size, struct slice text)
{
    (void)snprintf(to, size, "%.*s", SL_ARG(text));
}

int engine_open(struct engine *e, const char *endpoint, struct err *err)
{
    struct slice text = slice_str(endpoint);
    struct engine_answer a;
    *e = (struct engine){0};
    if (!slice_starts(text, SL("unix:///")))
        return err_set(err, E_INVALID, "endpoint `%s`: expected unix:///path", endpoint);
    e->socket = mem_strdup(endpoint + strlen("unix://"));
    e->curl = curl_easy_init();
    if (e->curl == NULL)
        die("libcurl cannot start");
    int code = engine_call(e, "GET", "/version", NULL, &a, err);
    if (code != 0)
        return code;
    unsigned most = minor(json_string(json_get(a.json, "ApiVersion")));
    unsigned least = minor(json_string(json_get(a.json, "MinAPIVersion")));
    keep(e->os, sizeof e->os, json_string(json_get(a.json, "Os")));
    keep(e->architecture, sizeof e->architecture, json_string(json_get(a.json, "Arch")));
    engine_answer_fini(&a);
    if (most < VERSION_LEAST || least > VERSION_MOST)
        return err_set(err, E_NOT_IMPLEMENTED,
                       "unix://%s speaks API versions 1.%u to 1.%u, this needs one of 1.%d to 1.%d",
                       e->socket, least, most, VERSION_LEAST, VERSION_MOST);
    (void)snprintf(e->version, sizeof e->version, "/v1.%u", most < VERSION_MOST ? most : VERSION_MOST);
    return 0;
}

void engine_close(struct engine *e)
{
    mem_free(e->socket);
    if (e->curl != NULL)
        curl_easy_cleanup(e->curl);
    *e = (struct engine){0};
}
