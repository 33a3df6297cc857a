// The commands, as a person and as a script use them.
import assert from 'node:assert/strict';
import { Reeve, runReeve } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

let reeve;

before(async () => {
    reeve = await Reeve.start({ tag: 'cli', edit: (c) => (c.tenants.acme.budgets = [{ name: 'month', scope: 'tenant', limit: '50 USD', window: 'month' }]) });
});
context(() => reeve?.tail(15));
after(() => reeve?.finish());

/** Runs `reeve …` with a key's name; gives {code, out, err}. */
function run(args, { key = 'acme owner', url = reeve.url } = {}) {
    return runReeve(args, { REEVE_URL: url, REEVE_KEY: key ? reeve.key(key) : '' });
}

test('a workspace from making to deleting', { timeout: 90000 }, async () => {
    const made = await run(['workspace', 'create', 'alice/dev', '--json']);
    assert.equal(made.code, 0, made.err);
    assert.equal(JSON.parse(made.out).state, 'ready');
    assert.equal((await run(['workspace', 'create', 'alice/dev'])).code, 0, 'twice is once');
    const listed = await run(['workspace', 'ls']);
    assert.equal(listed.code, 0, listed.err);
    assert.match(listed.out, /alice\/dev|alice\s+dev/);
    assert.match(listed.out, /ready/);
    assert.deepEqual(
        JSON.parse((await run(['workspace', 'ls', '--json'])).out).items.map((w) => w.name),
        ['dev'],
    );
    assert.equal(JSON.parse((await run(['workspace', 'show', 'alice/dev', '--json'])).out).namespace, 'alice');
    assert.equal((await run(['workspace', 'suspend', 'alice/dev', '--wait', '30s'])).code, 0);
    assert.equal(JSON.parse((await run(['workspace', 'show', 'alice/dev', '--json'])).out).state, 'suspended');
    assert.equal((await run(['workspace', 'resume', 'alice/dev', '--wait=30s'])).code, 0);
    assert.equal((await run(['workspace', 'restart', 'alice/dev', '--wait', '30s'])).code, 0);
    assert.equal((await run(['workspace', 'delete', 'alice/dev', '--wait', '30s'])).code, 0);
    const gone = await run(['workspace', 'show', 'alice/dev']);
    assert.equal(gone.code, 1);
    assert.match(gone.err, /no such workspace/);
});

test('money: usage, budgets, export', async () => {
    const usage = await run(['usage', '--json']);
    assert.equal(usage.code, 0, usage.err);
    assert.equal(JSON.parse(usage.out).total.cost.amount, '0');
    const grouped = await run(['usage', '--by', 'workspace,kind', '--model', 'none']);
    assert.match(grouped.out, /^NAMESPACE\s+WORKSPACE\s+KIND\s+QUANTITY\s+COST\ntotal\s+0\s+0 USD\n$/, grouped.err);
    assert.match((await run(['usage'])).out, /^\s*INPUT\s+OUTPUT\s+CACHE READ\s+CACHE WRITE\s+COST\ntotal\s/);
    assert.equal((await run(['usage', '--by', 'mood'])).code, 1);
    const budget = await run(['budget', 'ls']);
    assert.equal(budget.code, 0, budget.err);
    assert.match(budget.out, /month\s.*50/);
    const lowered = await run(['budget', 'set', 'month', '7 USD']);
    assert.equal(lowered.code, 0, lowered.err);
    assert.match(lowered.out, /month\s+tenant\s+month\s+7 USD\s.*tenant/);
    assert.equal(JSON.parse((await run(['budget', 'show', 'month', '--json'])).out).limit.amount, '7');
    const above = await run(['budget', 'set', 'month', '70000000 USD']);
    assert.equal(above.code, 1);
    assert.match(above.err, /limit: is above the operator's/);
    assert.equal((await run(['budget', 'rm', 'month'])).code, 0);
    assert.match((await run(['budget', 'show', 'month'])).out, /50/);
    assert.equal((await run(['budget', 'set', 'month'])).code, 2);
    const file = await run(['export']);
    assert.equal(file.code, 0, file.err);
    assert.match(file.out, /^number,time,/);
    assert.equal((await run(['export', '2026-99'])).code, 1);
});

test('a new key and its line work together', async () => {
    const made = await run(['key', 'new'], { key: null });
    assert.equal(made.code, 0, made.err);
    assert.match(made.out + made.err, /rvk_[a-z2-7]{16}_[A-Za-z0-9_-]{43}/);
    assert.match(made.out + made.err, /sha256:[0-9a-f]{64}/);
});

test('exit codes: 1 refused, 2 used wrongly, 3 not reached', async () => {
    assert.equal((await run(['workspace', 'ls'], { key: 'nobody' })).code, 1);
    assert.equal((await run(['workspace', 'create', 'alice/dev'], { key: 'acme viewer' })).code, 1);
    assert.equal((await run(['workspace', 'create', 'nonsense'])).code, 2);
    assert.equal((await run(['workspace', 'create'])).code, 2);
    assert.equal((await run(['workspace', 'ls', '--no-such-option'])).code, 2);
    assert.equal((await run(['no-such-command'])).code, 2);
    assert.equal((await run([])).code, 2);
    const away = await run(['workspace', 'ls'], { url: 'http://127.0.0.1:1' });
    assert.equal(away.code, 3);
    assert.match(away.err, /127\.0\.0\.1/);
    for (const args of [['--help'], ['help'], ['workspace', '--help'], ['workspace', 'create', '--help'], ['serve', '--help']]) {
        const help = await run(args, { key: null });
        assert.equal(help.code, 0, `${args}: ${help.err}`);
        assert.ok(help.out.length > 40, args.join(' '));
    }
});

test('the API describes itself', async () => {
    const document = (await reeve.api('GET', '/v1/openapi.json', { key: null })).body;
    assert.match(document.openapi, /^3\./);
    assert.ok(document.paths['/v1/workspaces/{namespace}/{name}'].put);
    assert.ok(document.paths['/v1/gateways/{gateway}/usage'].post);
    const figures = await reeve.api('GET', '/metrics', { key: 'fleet owner' });
    assert.equal(figures.status, 200);
    for (const line of figures.text.trim().split('\n')) assert.match(line, /^(# (HELP|TYPE) \S+ .*|[a-z_]+(\{[^}]*\})? -?[0-9.e+]+)$/, line);
});
