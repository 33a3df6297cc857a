/* top_view: a snapshot as one frame of a terminal, as plain lines, or as JSON.
 *
 * Everything that is other people's words goes through cell(): printable ASCII stays, every other character
 * is shown as one `?`, so a name can neither drive the terminal nor break the columns. */
#include "controller/cli/top.h"

#include <stdio.h>
#include <string.h>

#include "base/core/clock.h"
#include "base/core/mem.h"
#include "base/core/json.h"

#define COLUMNS_MAX 8
#define CELL_MAX    48
#define LINE_BYTES  1024
#define BAR         20
#define LOW         16 /* rows: a terminal below this shows no budgets */
#define SHOWN_SCALE 4  /* digits of money after the point; JSON has them all */

struct drawing {
    const struct top_snapshot *s;
    const struct top_screen *screen;
    struct buf *out;
    size_t rows;  /* drawn so far */
    size_t limit; /* of them: the last one is for the keys */
};

enum look { LOOK_PLAIN, LOOK_HEAD, LOOK_SPENDING, LOOK_BAD };

static bool is_screen(const struct drawing *d)
{
    return d->screen->rows > 0;
}

static size_t rows_left(const struct drawing *d)
{
    return !is_screen(d) ? SIZE_MAX : d->limit > d->rows ? d->limit - d->rows : 0;
}

/* One line, cut to the terminal's width; nothing when the screen is full. */
static void line(struct drawing *d, enum look look, const char *text)
{
    static const char *const looks[] = {"", "\033[7m", "\033[1m", "\033[31m"};
    size_t n = strlen(text);
    if (rows_left(d) == 0)
        return;
    if (!is_screen(d)) {
        while (n > 0 && text[n - 1] == ' ')
            n--;
        (void)buf_printf(d->out, "%.*s\n", (int)n, text);
        return;
    }
    if (n > d->screen->columns)
        n = d->screen->columns;
    (void)buf_printf(d->out, "%s%s%.*s\033[0m\033[K", d->rows > 0 ? "\r\n" : "", looks[look], (int)n, text);
    d->rows++;
}

static void clean(struct slice s, char out[CELL_MAX])
{
    size_t n = 0;
    for (size_t i = 0; i < s.n && n + 1 < CELL_MAX; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c >= 0x20 && c < 0x7f)
            out[n++] = (char)c;
        else if ((c & 0xc0) != 0x80) /* not inside a character */
            out[n++] = '?';
    }
    if (n + 1 == CELL_MAX)
        out[n - 1] = '~';
    out[n] = '\0';
}

/* --- money --- */

static void money_short(i128 v, char out[CELL_MAX])
{
    char text[I128_TEXT_MAX];
    i128 step = 1;
    for (int i = SHOWN_SCALE; i < 18; i++)
        step *= 10;
    i128 whole = v / step, twice = v % step * 2;
    if (v > 0 && whole == 0) {
        (void)snprintf(out, CELL_MAX, "<0.0001");
        return;
    }
    if (twice > step || (twice == step && whole % 2 != 0))
        whole++;
    else if (twice < -step || (twice == -step && whole % 2 != 0))
        whole--;
    size_t n = i128_format(whole, SHOWN_SCALE, text);
    const char *point = strchr(text, '.');
    size_t behind = point != NULL ? n - (size_t)(point - text) - 1 : 0;
    (void)snprintf(out, CELL_MAX, "%.40s%s%.*s", text, point == NULL ? "." : "", (int)(SHOWN_SCALE - behind),
                   "0000");
}

/* spent of limit, as a bar and a percentage. */
static void bar(i128 spent, i128 limit, char out[CELL_MAX])
{
    i128 hundredfold;
    uint64_t percent = 999;
    if (limit > 0 && i128_mul(spent, 100, &hundredfold) == 0 && hundredfold / limit < 999)
        percent = (uint64_t)(hundredfold / limit);
    if (limit <= 0)
        percent = 100;
    size_t full = percent >= 100 ? BAR : (size_t)percent * BAR / 100;
    (void)snprintf(out, CELL_MAX, "[%.*s%.*s] %3llu%%", (int)full, "####################", (int)(BAR - full),
                   "....................", (unsigned long long)percent);
}

/* --- tables --- */

struct grid {
    size_t columns, n;
    const char *heads[COLUMNS_MAX];
    bool is_right[COLUMNS_MAX];
    char (*cells)[COLUMNS_MAX][CELL_MAX];
    enum look *looks;
};

static void grid_init(struct grid *g, const char *const *heads, const char *right, size_t columns,
                      size_t rows)
{
    *g = (struct grid){.columns = columns};
    for (size_t i = 0; i < columns; i++) {
        g->heads[i] = heads[i];
        g->is_right[i] = right[i] == 'r';
    }
    g->cells = mem_zalloc((rows + 1) * sizeof(*g->cells));
    g->looks = mem_zalloc((rows + 1) * sizeof(*g->looks));
}

static void grid_draw(struct drawing *d, struct grid *g)
{
    size_t width[COLUMNS_MAX];
    char text[LINE_BYTES];
    for (size_t c = 0; c < g->columns; c++) {
        width[c] = strlen(g->heads[c]);
        for (size_t i = 0; i < g->n; i++)
            if (strlen(g->cells[i][c]) > width[c])
                width[c] = strlen(g->cells[i][c]);
    }
    for (size_t i = 0; i <= g->n; i++) {
        size_t at = 0;
        for (size_t c = 0; c < g->columns; c++)
            at += (size_t)snprintf(text + at, sizeof(text) - at, g->is_right[c] ? "%*s  " : "%-*s  ",
                                   (int)width[c], i == 0 ? g->heads[c] : g->cells[i - 1][c]);
        line(d, i == 0 ? LOOK_HEAD : g->looks[i - 1], text);
    }
    mem_free(g->cells);
    mem_free(g->looks);
}

static void more(struct drawing *d, size_t n, const char *what)
{
    char text[96];
    if (n == 0)
        return;
    (void)snprintf(text, sizeof(text), "  and %zu more %s", n, what);
    line(d, LOOK_PLAIN, text);
}

/* --- the parts of the frame --- */

static void draw_summary(struct drawing *d)
{
    const struct top_snapshot *s = d->s;
    char text[LINE_BYTES], at[TIME_TEXT_MAX], name[CELL_MAX] = "", today[CELL_MAX], month[CELL_MAX];
    size_t ready = 0, suspended = 0, failed = 0, others = 0;
    i128 sum_today = 0, sum_month = 0;
    for (size_t i = 0; i < s->n_tenants; i++) {
        const struct top_tenant *t = &s->tenants[i];
        ready += t->ready;
        suspended += t->suspended;
        failed += t->failed;
        others += t->others;
        if (i128_add(sum_today, t->today, &sum_today) != 0 || i128_add(sum_month, t->month, &sum_month) != 0)
            sum_today = sum_month = I128_MAX;
    }
    if (!s->is_fleet && s->n_tenants > 0)
        clean(s->tenants[0].name, name);
    time_format(s->at_ms, at);
    at[19] = '\0'; /* whole seconds */
    at[10] = ' ';
    (void)snprintf(text, sizeof(text), "reeve top  %s%s  %s UTC  by %s%s", s->is_fleet ? "fleet" : "tenant ",
                   name, at, top_order_names[d->screen->order], s->is_cut ? "  (too many to show all)" : "");
    line(d, LOOK_PLAIN, text);
    money_short(sum_today, today);
    money_short(sum_month, month);
    int n = snprintf(text, sizeof(text), "today %s, this month %s %s; ", today, month, s->currency);
    if (s->is_fleet)
        n += snprintf(text + n, sizeof(text) - (size_t)n, "%zu tenant%s, ", s->n_tenants,
                      s->n_tenants == 1 ? "" : "s");
    size_t all = ready + suspended + failed + others;
    (void)snprintf(text + n, sizeof(text) - (size_t)n,
                   "%zu workspace%s: %zu ready, %zu suspended, %zu failed, %zu other", all,
                   all == 1 ? "" : "s", ready, suspended, failed, others);
    line(d, LOOK_PLAIN, text);
    if (d->screen->message != NULL) {
        char shown[256];
        size_t at_byte = 0;
        for (const char *p = d->screen->message; *p != '\0' && at_byte + 1 < sizeof(shown); p++)
            shown[at_byte++] = *p >= 0x20 && *p < 0x7f ? *p : '?';
        shown[at_byte] = '\0';
        line(d, LOOK_BAD, shown);
    }
    line(d, LOOK_PLAIN, "");
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* How many lines of a list above the workspaces: they must have room too. */
static size_t shown_of(const struct drawing *d, size_t n)
{
    return is_screen(d) ? least(n, 1 + d->screen->rows / 8) : n;
}

static void draw_tenants(struct drawing *d)
{
    static const char *const heads[] = {"TENANT", "READY", "SUSPENDED", "FAILED", "OTHER", "TODAY", "MONTH"};
    const struct top_snapshot *s = d->s;
    size_t n = shown_of(d, s->n_tenants);
    struct grid g;
    grid_init(&g, heads, "lrrrrrr", ARRAY_LEN(heads), n);
    for (; g.n < n; g.n++) {
        const struct top_tenant *t = &s->tenants[g.n];
        const size_t counts[] = {t->ready, t->suspended, t->failed, t->others};
        clean(t->name, g.cells[g.n][0]);
        for (size_t c = 0; c < ARRAY_LEN(counts); c++)
            (void)snprintf(g.cells[g.n][1 + c], CELL_MAX, "%zu", counts[c]);
        money_short(t->today, g.cells[g.n][5]);
        money_short(t->month, g.cells[g.n][6]);
        g.looks[g.n] = t->is_spending ? LOOK_SPENDING : LOOK_PLAIN;
    }
    grid_draw(d, &g);
    more(d, s->n_tenants - n, "tenants");
    line(d, LOOK_PLAIN, "");
}

static void draw_budgets(struct drawing *d)
{
    static const char *const heads[] = {"BUDGET", "TENANT", "", "SPENT", "LIMIT", "UNSETTLED", "RESETS"};
    const struct top_snapshot *s = d->s;
    size_t n = shown_of(d, s->n_budgets);
    struct grid g;
    if (s->n_budgets == 0 || (is_screen(d) && d->screen->rows < LOW))
        return;
    grid_init(&g, heads, "lllrrrl", ARRAY_LEN(heads), n);
    for (; g.n < n; g.n++) {
        const struct top_budget *b = &s->budgets[g.n];
        i128 counted = 0;
        if (i128_add(b->spent, b->unsettled, &counted) != 0)
            counted = I128_MAX;
        clean(b->name, g.cells[g.n][0]);
        clean(b->tenant, g.cells[g.n][1]);
        bar(counted, b->limit, g.cells[g.n][2]);
        money_short(b->spent, g.cells[g.n][3]);
        money_short(b->limit, g.cells[g.n][4]);
        money_short(b->unsettled, g.cells[g.n][5]);
        clean(b->resets_at, g.cells[g.n][6]);
        g.looks[g.n] = counted >= b->limit ? LOOK_BAD : b->is_spending ? LOOK_SPENDING : LOOK_PLAIN;
    }
    grid_draw(d, &g);
    more(d, s->n_budgets - n, "budgets");
    line(d, LOOK_PLAIN, "");
}

static void draw_workspaces(struct drawing *d, struct top_screen *screen)
{
    static const char *const heads[] = {"WORKSPACE", "TENANT", "STATE", "PROVIDER",
                                        "TODAY",     "MONTH",  "REASON"};
    const struct top_snapshot *s = d->s;
    size_t room = rows_left(d) < 1 ? 0 : rows_left(d) - 1; /* under the head */
    size_t n = least(s->n_workspaces, room);
    screen->first_max = s->n_workspaces - n;
    screen->first = least(screen->first, screen->first_max);
    struct grid g;
    grid_init(&g, heads, "llllrrl", ARRAY_LEN(heads), n);
    for (; g.n < n; g.n++) {
        const struct top_workspace *ws = &s->workspaces[screen->first + g.n];
        char place[2 * CELL_MAX], namespace[CELL_MAX], name[CELL_MAX];
        clean(ws->namespace, namespace);
        clean(ws->name, name);
        (void)snprintf(place, sizeof(place), "%s/%s", namespace, name);
        clean(slice_str(place), g.cells[g.n][0]);
        clean(ws->tenant, g.cells[g.n][1]);
        clean(ws->state, g.cells[g.n][2]);
        clean(ws->provider, g.cells[g.n][3]);
        money_short(ws->today, g.cells[g.n][4]);
        money_short(ws->month, g.cells[g.n][5]);
        clean(ws->reason, g.cells[g.n][6]);
        g.looks[g.n] = slice_eq_str(ws->state, "failed") ? LOOK_BAD
                       : ws->is_spending                 ? LOOK_SPENDING
                                                         : LOOK_PLAIN;
    }
    grid_draw(d, &g);
}

void top_draw(const struct top_snapshot *s, struct top_screen *screen, struct buf *out)
{
    struct drawing d = {s, screen, out, 0, screen->rows - 1};
    if (is_screen(&d))
        (void)buf_str(out, "\033[H");
    draw_summary(&d);
    if (s->is_fleet)
        draw_tenants(&d);
    draw_budgets(&d);
    draw_workspaces(&d, screen);
    if (!is_screen(&d))
        return;
    while (rows_left(&d) > 0)
        line(&d, LOOK_PLAIN, "");
    d.limit++;
    line(&d, LOOK_PLAIN, "q quit   s sort   j k PgDn PgUp scroll");
}

/* --- for programs --- */

static void money_json(struct jsonw *w, const char *key, i128 v)
{
    char text[I128_TEXT_MAX];
    jsonw_kslice(w, key, slice_of(text, i128_format(v, 18, text)));
}

static void tenant_json(struct jsonw *w, const struct top_tenant *t)
{
    jsonw_object(w);
    jsonw_kslice(w, "name", t->name);
    jsonw_ku64(w, "ready", t->ready);
    jsonw_ku64(w, "suspended", t->suspended);
    jsonw_ku64(w, "failed", t->failed);
    jsonw_ku64(w, "other", t->others);
    money_json(w, "today", t->today);
    money_json(w, "month", t->month);
    jsonw_object_end(w);
}

static void budget_json(struct jsonw *w, const struct top_budget *b)
{
    jsonw_object(w);
    jsonw_kslice(w, "tenant", b->tenant);
    jsonw_kslice(w, "name", b->name);
    money_json(w, "limit", b->limit);
    money_json(w, "spent", b->spent);
    money_json(w, "unsettled", b->unsettled);
    jsonw_kslice(w, "resets_at", b->resets_at);
    jsonw_object_end(w);
}

static void place_json(struct jsonw *w, const struct top_workspace *ws)
{
    jsonw_object(w);
    jsonw_kslice(w, "tenant", ws->tenant);
    jsonw_kslice(w, "id", ws->id);
    jsonw_kslice(w, "namespace", ws->namespace);
    jsonw_kslice(w, "name", ws->name);
    jsonw_kslice(w, "state", ws->state);
    jsonw_kslice(w, "provider", ws->provider.n > 0 ? ws->provider : SLICE_NULL);
    jsonw_kslice(w, "reason", ws->reason.n > 0 ? ws->reason : SLICE_NULL);
    money_json(w, "today", ws->today);
    money_json(w, "month", ws->month);
    jsonw_object_end(w);
}

void top_json(const struct top_snapshot *s, struct buf *out)
{
    struct jsonw w;
    jsonw_init(&w, out);
    jsonw_object(&w);
    jsonw_ktime(&w, "at", s->at_ms);
    jsonw_kstr(&w, "authority", s->is_fleet ? "fleet" : "tenant");
    jsonw_kstr(&w, "currency", s->currency[0] != '\0' ? s->currency : NULL);
    jsonw_kbool(&w, "truncated", s->is_cut);
    jsonw_key(&w, "tenants");
    jsonw_array(&w);
    for (size_t i = 0; i < s->n_tenants; i++)
        tenant_json(&w, &s->tenants[i]);
    jsonw_array_end(&w);
    jsonw_key(&w, "budgets");
    jsonw_array(&w);
    for (size_t i = 0; i < s->n_budgets; i++)
        budget_json(&w, &s->budgets[i]);
    jsonw_array_end(&w);
    jsonw_key(&w, "workspaces");
    jsonw_array(&w);
    for (size_t i = 0; i < s->n_workspaces; i++)
        place_json(&w, &s->workspaces[i]);
    jsonw_array_end(&w);
    jsonw_object_end(&w);
    (void)buf_byte(out, '\n');
}
