/* export: files that add up, page by page, while more is posted; and questions about usage that make no
 * sense. */
#include "tests/unit/billing_fixture.h"

/* A thousand events of one tenant do not fit one commit; and while they are exported, more are posted. */
static void test_large_batch_and_export(void **state)
{
    struct fixture *f = *state;
    struct mixed_event *e = mem_alloc(BILLING_BATCH_MAX * sizeof(*e));
    char(*ids)[24] = mem_alloc(BILLING_BATCH_MAX * sizeof(*ids));
    key_put(f, 0, "gw");
    key_put(f, 1, "gw");
    for (size_t i = 0; i < BILLING_BATCH_MAX; i++) {
        e[i] = plain_call;
        (void)snprintf(ids[i], sizeof(ids[i]), "%c,\"%zu\"", "=+-@x"[i % 5], i);
        e[i].id = ids[i];
        e[i].key = (int)(i % 2);
    }
    f->store.commits = 0;
    post(f, e, BILLING_BATCH_MAX);
    assert_answer(f, BILLING_BATCH_MAX, 0, "");
    assert_true(f->store.commits >= 2);

    static const struct export_events ev = {on_part, on_end};
    struct exporting x = {.f = f}; /* no next by itself: we pull */
    buf_reset(&f->text);
    f->is_done = false;
    struct billing_export *out =
        billing_export_start(f->billing, SL("acme"), SL("2026-11"), EXPORT_CSV, &ev, &x);
    size_t seen = 0;
    struct mixed_event more = plain_call;
    more.id = "between";
    while (!f->is_done) {
        (void)uv_run(&f->loop.uv, UV_RUN_NOWAIT);
        if (x.parts == seen)
            continue;
        seen = x.parts;
        if (seen == 2) {
            post(f, &more, 1);
            assert_answer(f, 1, 0, "");
            f->is_done = false;
        }
        billing_export_next(out);
    }
    assert_int_equal(f->code, 0);
    assert_true(x.parts >= 4); /* the header, two pages, and what came later */
    assert_int_equal(f->rows, 4 * (BILLING_BATCH_MAX + 1));
    assert_amount(f->total, "4.522518", "total");
    assert_amount(csv_sum(buf_cstr(&f->text)), "4.522518", "sum");
    /* Nothing a spreadsheet would run; quotes doubled. */
    assert_null(strstr(buf_cstr(&f->text), ",=") != NULL ? "formula" : NULL);
    assert_non_null(strstr(buf_cstr(&f->text), ",\"'=,\"\"0\"\"\","));
    assert_non_null(strstr(buf_cstr(&f->text), ",'=bob,"));

    f->is_done = false; /* cancelled while it waits for us, and while it reads */
    x = (struct exporting){.f = f};
    out = billing_export_start(f->billing, SL("acme"), SL("2026-11"), EXPORT_JSONL, &ev, &x);
    billing_export_cancel(out);
    until(f, &f->is_done);
    assert_int_equal(f->code, E_CANCELLED);
    f->is_done = false;
    out = billing_export_start(f->billing, SL("acme"), SL("2026-11"), EXPORT_CSV, &ev, &x);
    while (x.parts == 0)
        (void)uv_run(&f->loop.uv, UV_RUN_ONCE);
    billing_export_cancel(out);
    assert_false(f->is_done);
    until(f, &f->is_done);
    assert_int_equal(f->code, E_CANCELLED);
    mem_free(ids);
    mem_free(e);
}

/* An event is posted between the last page and the check of the total: it is written too, and the check
 * repeated. */
static void test_posting_during_the_check(void **state)
{
    struct fixture *f = *state;
    static const struct export_events ev = {on_part, on_end};
    struct exporting x = {.f = f};
    struct mixed_event more = plain_call;
    key_put(f, 0, "gw");
    post(f, &plain_call, 1);
    buf_reset(&f->text);
    f->store.is_holding = true; /* the counter's answer */
    x.export = billing_export_start(f->billing, SL("acme"), SL("2026-11"), EXPORT_CSV, &ev, &x);
    while (f->store.held == NULL)
        (void)uv_run(&f->loop.uv, UV_RUN_ONCE);
    more.id = "between";
    post(f, &more, 1);
    assert_answer(f, 1, 0, "");
    f->is_done = false;
    held_release(&f->store);
    until(f, &f->is_done);
    assert_int_equal(f->code, 0);
    assert_int_equal(f->rows, 8);
    assert_amount(f->total, "0.009036", "total");
    assert_amount(csv_sum(buf_cstr(&f->text)), "0.009036", "sum");
}

static void test_questions_that_make_no_sense(void **state)
{
    struct fixture *f = *state;
    (void)usage(f, "nobody", "", "", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "");
    assert_int_equal(f->code, E_NOT_FOUND);
    (void)usage(f, "acme", "", "", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "colour");
    assert_int_equal(f->code, E_INVALID);
    (void)usage(f, "acme", "", "", "2026-12-01T00:00:00Z", "2026-11-01T00:00:00Z", "");
    assert_int_equal(f->code, E_INVALID);
    (void)usage(f, "acme", "", "", "2020-12-01T00:00:00Z", "2026-11-01T00:00:00Z", "");
    assert_int_equal(f->code, E_INVALID);
    (void)export(f, "nobody", "2026-11", EXPORT_CSV);
    assert_int_equal(f->code, E_NOT_FOUND);
    static const char *const bad[] = {"",       "2026",    "2026-13",    "2026-00",
                                      "2026-1", "2026/11", "2026-11-01", "x026-11"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        (void)export(f, "acme", bad[i], EXPORT_CSV);
        assert_int_equal(f->code, E_INVALID);
    }
    assert_int_equal(suspense(f, "nobody", 10), 0);
}

/* A ledger whose counter says something else is not exported as if it were whole. */
static void test_export_that_does_not_add_up(void **state)
{
    struct fixture *f = *state;
    key_put(f, 0, "gw");
    post(f, &plain_call, 1);
    struct store_op op = store_add(SL("period/2026-11"), 1);
    f->is_done = false;
    store_commit(f->engine, slice_str(tenancy_tenant(f->tenancy, SL("acme"))->id), &op, 1, on_commit, f);
    until(f, &f->is_done);
    (void)export(f, "acme", "2026-11", EXPORT_CSV);
    assert_int_equal(f->code, E_INTERNAL);
    assert_non_null(strstr(f->err.msg, "0.004518000000000001"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(test_large_batch_and_export),
        ON_BOTH(test_posting_during_the_check),
        ON_BOTH(test_questions_that_make_no_sense),
        ON_BOTH(test_export_that_does_not_add_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
