/* api: a command's calls to the controller. Commands may block, so this is libcurl's plain interface. */
#include "controller/cli/command.h"

#include "base/core/id.h"
#include "base/core/mem.h"
#include "base/net/http.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_MAX ((size_t)64 * 1024 * 1024)
#define CALL_MS    (6 * 60 * 1000L) /* above the longest ?wait= */

static const char *url_base(void)
{
    const char *url = getenv("REEVE_URL");
    return url != NULL && url[0] != '\0' ? url : "http://127.0.0.1:8700";
}

static size_t on_bytes(char *p, size_t size, size_t n, void *data)
{
    return buf_append(data, p, size * n) == 0 ? size * n : 0;
}

static size_t on_stdout(char *p, size_t size, size_t n, void *data)
{
    (void)data;
    return fwrite(p, 1, size * n, stdout);
}

/* To a terminal: what came from sandboxes or users cannot drive it; problems may have several lines. */
static void print_plain(FILE *f, struct slice text)
{
    for (size_t i = 0; i < text.n; i++)
        (void)fputc(text.p[i] != '\n' && text_drives(text, i) ? '?' : text.p[i], f);
}

static void print_problem(const struct api_answer *a)
{
    struct slice detail = json_string(json_get(a->json, "detail")),
                 code = json_string(json_get(a->json, "code"));
    struct slice id = json_string(json_get(a->json, "request_id"));
    if (a->json == NULL)
        (void)fprintf(stderr, "reeve: the controller answered %d\n", a->status);
    else {
        (void)fputs("reeve: ", stderr);
        print_plain(stderr, code);
        (void)fputs(": ", stderr);
        print_plain(stderr, detail);
        (void)fprintf(stderr, " (status %d, request ", a->status);
        print_plain(stderr, id);
        (void)fputs(")\n", stderr);
    }
}

static int on_progress(void *data, curl_off_t down, curl_off_t down_now, curl_off_t up, curl_off_t up_now)
{
    const struct api_request *rq = data;
    (void)down, (void)down_now, (void)up, (void)up_now;
    return rq->should_stop(rq->data) ? 1 : 0;
}

/* One for the whole command: it keeps its connection. */
static CURL *handle(void)
{
    static CURL *h;
    if (h == NULL)
        h = curl_easy_init();
    if (h == NULL)
        die("libcurl cannot start");
    curl_easy_reset(h);
    return h;
}

/* EXIT_DONE with whatever status; EXIT_UNREACHABLE with the reason. */
static int perform(const struct api_request *rq, bool to_stdout, struct api_answer *ret, struct err *err)
{
    const char *key = getenv("REEVE_KEY"), *tenant = rq->tenant != NULL ? rq->tenant : getenv("REEVE_TENANT"),
               *ca = getenv("REEVE_CA");
    struct buf url = BUF_INIT(8192), bearer = BUF_INIT(1024), acting = BUF_INIT(1024);
    struct curl_slist *headers = NULL;
    CURL *h = handle();
    char why[CURL_ERROR_SIZE] = "";
    long status = 0;
    (void)buf_printf(&url, "%s%s", url_base(), rq->path);
    (void)buf_printf(&bearer, "Authorization: Bearer %s", key != NULL ? key : "");
    (void)buf_printf(&acting, "Reeve-Tenant: %s", tenant != NULL ? tenant : "");
    headers = curl_slist_append(headers, buf_cstr(&bearer));
    headers = curl_slist_append(headers, "Content-Type: application/json");
    headers = curl_slist_append(headers, "Expect:");
    if (tenant != NULL && tenant[0] != '\0')
        headers = curl_slist_append(headers, buf_cstr(&acting));
    (void)curl_easy_setopt(h, CURLOPT_URL, buf_cstr(&url));
    (void)curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    if (ca != NULL && ca[0] != '\0') {
        (void)curl_easy_setopt(h, CURLOPT_CAINFO, ca);
        (void)curl_easy_setopt(h, CURLOPT_CAPATH, NULL); /* that file alone */
    }
    (void)curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, rq->method);
    (void)curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
    (void)curl_easy_setopt(h, CURLOPT_ERRORBUFFER, why);
    (void)curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, 5000L);
    if (!to_stdout)
        (void)curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, rq->deadline_ms > 0 ? rq->deadline_ms : CALL_MS);
    (void)curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    if (rq->should_stop != NULL) {
        (void)curl_easy_setopt(h, CURLOPT_NOPROGRESS, 0L);
        (void)curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, on_progress);
        (void)curl_easy_setopt(h, CURLOPT_XFERINFODATA, (void *)(uintptr_t)rq);
    }
    (void)curl_easy_setopt(h, CURLOPT_FAILONERROR, to_stdout ? 1L : 0L);
    (void)curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, to_stdout ? on_stdout : on_bytes);
    (void)curl_easy_setopt(h, CURLOPT_WRITEDATA, (void *)&ret->body);
    if (rq->body.p != NULL) {
        (void)curl_easy_setopt(h, CURLOPT_POSTFIELDS, rq->body.p);
        (void)curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE, (long)rq->body.n);
    }
    CURLcode code = curl_easy_perform(h);
    (void)curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
    ret->status = (int)status;
    curl_slist_free_all(headers);
    buf_fini(&url);
    buf_wipe(&bearer);
    buf_fini(&acting);
    if (code == CURLE_OK || code == CURLE_HTTP_RETURNED_ERROR)
        return EXIT_DONE;
    (void)err_set(err, code == CURLE_ABORTED_BY_CALLBACK ? E_CANCELLED : E_UNAVAILABLE, "%s: %s", url_base(),
                  why[0] != '\0' ? why : curl_easy_strerror(code));
    return EXIT_UNREACHABLE;
}

static int call(const struct api_request *rq, struct api_answer *ret, struct err *err)
{
    *ret = (struct api_answer){.body = BUF_INIT(ANSWER_MAX)};
    struct json_limits limits = {.bytes_max = ANSWER_MAX, .nodes_max = 5000000};
    int code = perform(rq, false, ret, err);
    if (code == EXIT_DONE && ret->body.n > 0)
        (void)json_parse(buf_view(&ret->body), &limits, &ret->json, NULL); /* not JSON: json stays NULL */
    return code == EXIT_DONE && ret->status / 100 != 2 ? EXIT_REFUSED : code;
}

int api_try(const struct api_request *rq, struct api_answer *ret, struct err *err)
{
    int code = call(rq, ret, err);
    if (code == EXIT_REFUSED) {
        struct slice detail = json_string(json_get(ret->json, "detail"));
        (void)err_set(err, ret->status == 404 ? E_NOT_FOUND : E_UPSTREAM, "%.*s (status %d)",
                      (int)(detail.n < 500 ? detail.n : 500), detail.p != NULL ? detail.p : "", ret->status);
    }
    if (code != EXIT_DONE)
        api_answer_fini(ret);
    return code;
}

int api_call(const char *method, const char *path, struct slice body, struct api_answer *ret)
{
    const struct api_request rq = {.method = method, .path = path, .body = body};
    struct err err = {0};
    int code = call(&rq, ret, &err);
    if (code == EXIT_UNREACHABLE)
        (void)fprintf(stderr, "reeve: %s\n", err.msg);
    if (code == EXIT_REFUSED)
        print_problem(ret);
    if (code != EXIT_DONE)
        api_answer_fini(ret);
    return code;
}

int api_pages(const char *path, unsigned limit, void (*on_page)(const struct json *page, void *data),
              void *data)
{
    struct buf after = BUF_INIT(8192), whole = BUF_INIT(16384);
    char text[16];
    int code;
    (void)snprintf(text, sizeof text, "%u", limit);
    do {
        struct api_answer a;
        buf_reset(&whole);
        (void)buf_str(&whole, path);
        api_query_add(&whole, "limit", text);
        api_query_add(&whole, "after", after.n > 0 ? buf_cstr(&after) : NULL);
        code = api_call("GET", buf_cstr(&whole), SLICE_NULL, &a);
        if (code != EXIT_DONE)
            break;
        buf_reset(&after);
        struct slice next = json_string(json_get(a.json, "next"));
        if (next.p != NULL)
            (void)buf_slice(&after, next);
        if (command_wants_json())
            api_print_json(&a);
        else
            on_page(a.json, data);
        api_answer_fini(&a);
    } while (after.n > 0);
    buf_fini(&after);
    buf_fini(&whole);
    return code;
}

int api_download(const char *path)
{
    struct api_answer a = {.body = BUF_INIT(ANSWER_MAX)};
    const struct api_request rq = {.method = "GET", .path = path};
    struct err err = {0};
    int code = perform(&rq, true, &a, &err);
    if (code != EXIT_DONE)
        (void)fprintf(stderr, "reeve: %s\n", err.msg);
    if (code == EXIT_DONE && a.status / 100 != 2) {
        /* ask again for the problem's text: the stream is for data only */
        api_answer_fini(&a);
        code = api_call("GET", path, SLICE_NULL, &a);
    }
    api_answer_fini(&a);
    if (fflush(stdout) != 0) {
        (void)fprintf(stderr, "reeve: stdout: cannot be written\n");
        return EXIT_REFUSED;
    }
    return code;
}

bool api_workspace_path(struct buf *path, const char *tail)
{
    struct slice text = slice_str(command_argument(0)), ns;
    if (!slice_cut(&text, '/', &ns) || !name_is_valid(ns) || !name_is_valid(text)) {
        (void)command_usage_error("expected NAMESPACE/NAME, found `%s`", command_argument(0));
        return false;
    }
    (void)buf_printf(path, "/v1/workspaces/%.*s/%.*s%s", SL_ARG(ns), SL_ARG(text), tail);
    return true;
}

void api_query_add(struct buf *path, const char *name, const char *value)
{
    if (value == NULL)
        return;
    (void)buf_printf(path, "%c%s=", slice_find(buf_view(path), '?') == SIZE_MAX ? '?' : '&', name);
    (void)url_encode(slice_str(value), path);
}

void api_answer_fini(struct api_answer *a)
{
    buf_wipe(&a->body);
    json_free(a->json);
    a->json = NULL;
}

void api_print_json(const struct api_answer *a)
{
    (void)printf("%.*s\n", (int)a->body.n, a->body.n > 0 ? a->body.p : "");
}
