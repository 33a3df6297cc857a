// What waits in suspense, and what the fleet's people decide about it: attribute, retry, dismiss, adjust; each of them twice,
// and with Reeve killed in the middle. In the end every account says the same.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { decimal, isLong, parseCsv, random, Reeve, reeveBinary, sha256, units, until } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

const models = { m: { input: '1', output: '2' } };
const rounds = Number(process.env.ROUNDS ?? (isLong ? 40 : 6));
const seed = Number(process.env.SEED ?? Date.now() % 1000000);
let reeve;
let keyHash; // of alice/dev's LLM key
let expected = 0n; // what the ledger should have, kept by hand

before(async () => {
    console.log(`      suspense seed ${seed}`);
    reeve = await Reeve.start({
        tag: 'suspense',
        edit: (config, folder) => {
            config.tenants.acme.budgets = [
                { name: 'month', scope: 'tenant', limit: '100000 USD', window: 'month' },
                { name: 'each', scope: 'namespace', limit: '100000 USD', window: 'month' },
            ];
            config.prices = { file: 'test-prices.yaml', unpriced: 'deny' };
            fs.writeFileSync(path.join(folder, 'test-prices.yaml'), JSON.stringify({ currency: 'USD', version: '1', models }));
        },
    });
    await reeve.workspace('alice/dev', { body: { user: 'alice@example.org' } });
    keyHash = sha256((await reeve.inside('alice/dev', '/bin/sh', ['-c', 'printf %s "$ANTHROPIC_API_KEY"'])).stdout);
});
context(() => `seed ${seed}\n${reeve?.tail(15)}`);
after(() => reeve?.finish());

const fleet = { key: 'fleet owner' };
const asFleet = { key: 'fleet owner', headers: { 'reeve-tenant': 'acme' } };
const event = (id, input, more = {}) => ({ id, key_hash: keyHash, model: 'm', time: new Date().toISOString(), tokens: { input }, ...more });
const cost = (input) => BigInt(input) * units('0.000001');

async function report(...events) {
    const told = await reeve.api('POST', '/v1/gateways/main/usage', { key: null, headers: { authorization: `Bearer ${reeve.gatewaySecret}` }, body: { events } });
    assert.equal(told.status, 200, told.text);
    return told.body;
}
async function waiting(who, query = '') {
    const items = [];
    for (let after; ; ) {
        const page = await reeve.api('GET', `/v1/suspense?limit=2${query}${after ? `&after=${encodeURIComponent(after)}` : ''}`, who);
        assert.equal(page.status, 200, page.text);
        items.push(...page.body.items);
        after = page.body.next;
        if (!after) return items;
    }
}
const find = async (who, id) => (await waiting(who)).find((it) => it.id === id);
const decide = (what, it, body, who) => reeve.api('POST', `/v1/suspense/${encodeURIComponent(it.suspense_id)}/${what}`, { ...who, body });
/** Twice, with one answer. */
async function decided(what, it, body, who) {
    const once = await decide(what, it, body, who);
    assert.equal(once.status, 200, once.text);
    const again = await decide(what, it, body, who);
    assert.deepEqual([again.status, again.body], [200, once.body]);
    return once.body;
}

/** Budgets, usage and both files say what is expected; so much is unsettled. */
async function check(unsettled = 0n) {
    const budget = (await reeve.api('GET', '/v1/budgets/month')).body;
    assert.deepEqual([budget.spent.amount, budget.unsettled.amount], [decimal(expected), decimal(unsettled)]);
    const [each] = (await reeve.api('GET', '/v1/budgets/each/instances')).body.items;
    assert.deepEqual([each?.spent.amount ?? '0', each?.unsettled.amount ?? '0'], [decimal(expected), decimal(unsettled)]);
    assert.equal((await reeve.api('GET', '/v1/usage')).body.total.cost.amount, decimal(expected));
    const period = new Date().toISOString().slice(0, 7);
    const csv = await reeve.api('GET', `/v1/periods/${period}/export?format=csv`);
    assert.equal(csv.status, 200, csv.text);
    const rows = parseCsv(csv.text);
    assert.equal(decimal(rows.reduce((sum, row) => sum + units(row.cost), 0n)), decimal(expected));
    return rows;
}

test('an unknown key: what it did is attributed to a workspace, once', async () => {
    const stranger = event('stranger', 1000, { key_hash: sha256('nobody') });
    assert.equal((await report(stranger)).rejected[0].code, 'unknown_key');
    const it = await find(fleet, 'stranger');
    assert.equal(it.reason, 'unknown_key');
    const body = { tenant: 'acme', namespace: 'alice', workspace: 'dev', reason: 'their old deployment' };
    for (const [key, headers] of [['acme owner'], ['globex owner'], ['acme viewer']])
        assert.equal((await decide('attribute', it, body, { key, headers })).status, 403);
    assert.match((await decide('attribute', it, { ...body, tenant: 'nobody' }, fleet)).body.detail, /^tenant: /);
    assert.match((await decide('attribute', it, { ...body, namespace: 'A' }, fleet)).body.detail, /^namespace: /);
    assert.equal((await decide('attribute', it, { ...body, workspace: 'none' }, fleet)).status, 404);
    assert.match((await decide('attribute', it, { ...body, reason: '' }, fleet)).body.detail, /^reason: /);
    assert.equal((await decide('attribute', { suspense_id: 'a,b,c' }, body, fleet)).status, 404);
    await check();
    const answer = await decided('attribute', it, body, fleet);
    assert.deepEqual([answer.outcome, answer.tenant, answer.workspace, answer.user], ['posted', 'acme', 'dev', 'alice@example.org']);
    expected += cost(1000);
    await check();
    assert.equal(await find(fleet, 'stranger'), undefined);
    assert.deepEqual(await report(stranger), { accepted: 0, duplicates: 1, rejected: [] }, 'the gateway says it again');
    assert.equal((await decide('dismiss', it, { reason: 'no' }, fleet)).status, 409);
    await check();
});

test('a conflict: the original stands, or is adjusted, and the file adds up', async () => {
    const one = event('one', 5000);
    const two = event('two', 7000);
    await report(one, two);
    expected += cost(12000);
    assert.deepEqual((await report({ ...one, tokens: { input: 6000 } }, { ...two, tokens: { input: 4000, output: 10 } })).rejected.map((r) => r.code), ['conflict', 'conflict']);
    await check(cost(6000) + cost(4020));
    const first = await find(asFleet, 'one');
    assert.equal((await decide('retry', first, undefined, asFleet)).status, 409);
    assert.equal((await decided('dismiss', first, { reason: 'counted twice by the gateway' }, asFleet)).outcome, 'dismissed');
    await check(cost(4020));
    assert.equal((await decided('adjust', await find(asFleet, 'two'), { reason: 'final count' }, asFleet)).outcome, 'adjusted');
    expected += cost(4020) - cost(7000);
    const rows = await check();
    const ofTwo = rows.filter((r) => r.event_id === 'two');
    assert.deepEqual(ofTwo.map((r) => [r.token_kind, r.quantity]), [['input', '7000'], ['input', '-7000'], ['input', '4000'], ['output', '10']]);
    const period = new Date().toISOString().slice(0, 7);
    assert.deepEqual(ofTwo.map((r) => r.adjusts), ['', ...Array(3).fill(`${period}/${ofTwo[0].number}`)]);
    assert.equal((await waiting({ key: 'acme owner' })).length, 0);
});

test('no price yet: retried when there is one', async () => {
    await report(event('late', 100, { model: 'late' }));
    const it = await find({ key: 'acme owner' }, 'late');
    const early = await decide('retry', it, undefined, asFleet);
    assert.equal(early.status, 409, early.text);
    assert.match(early.body.detail, /unpriced/);
    assert.equal((await decide('retry', it, undefined, { key: 'acme owner' })).status, 403);
    models.late = { input: '3', output: '1' };
    fs.writeFileSync(path.join(reeve.folder, 'test-prices.yaml'), JSON.stringify({ currency: 'USD', version: '2', models }));
    assert.equal((await reeve.api('POST', '/v1/reload', { key: 'fleet owner' })).status, 200);
    assert.equal((await decided('retry', it, undefined, asFleet)).outcome, 'posted');
    expected += cost(300);
    await check();
});

test('filters, and commands for people', async () => {
    await report(...[1, 2, 3].map((i) => event(`u${i}`, i, { model: `unheard-${i % 2}` })), event('nobody', 1, { key_hash: sha256('nobody') }));
    assert.equal((await waiting(asFleet, '&model=unheard-1')).length, 2);
    assert.equal((await waiting(asFleet, '&reason=conflict')).length, 0);
    assert.equal((await waiting(asFleet, `&gateway=main&key_hash=${keyHash}`)).length, 3);
    assert.equal((await waiting(asFleet, '&from=2100-01-01')).length, 0);
    const run = (args, tenant) => {
        const env = { ...process.env, REEVE_URL: reeve.url, REEVE_KEY: reeve.key('fleet owner'), REEVE_TENANT: tenant ?? '' };
        const made = spawnSync(reeveBinary, args, { encoding: 'utf8', timeout: 60000, env });
        return { code: made.status, out: made.stdout, err: made.stderr };
    };
    const listed = run(['suspense', 'ls', '--model', 'unheard-1'], 'acme');
    assert.equal(listed.code, 0, listed.err);
    const ids = [...listed.out.matchAll(/^unpriced .* (\S+)$/gm)].map((m) => m[1]);
    assert.equal(ids.length, 2, listed.out);
    assert.equal(run(['suspense', 'dismiss', ids[0]], 'acme').code, 1, 'why?');
    const gone = run(['suspense', 'dismiss', ids[0], '--reason', 'a test of theirs'], 'acme');
    assert.match(gone.out, /dismiss\s+dismissed\s+acme\s+alice/, gone.err);
    const stranger = await find(fleet, 'nobody');
    const given = run(['suspense', 'attribute', stranger.suspense_id, '--tenant', 'acme', '--namespace', 'alice', '--reason', 'known', '--json']);
    assert.equal(JSON.parse(given.out).outcome, 'posted', given.err);
    expected += cost(1);
    await check();
    for (const it of await waiting(asFleet)) await decided('dismiss', it, { reason: 'clean' }, asFleet);
    await check();
});

test(`killed in the middle of it, ${rounds} times`, { timeout: 240000 }, async () => {
    const rnd = random(seed);
    for (let round = 0; round < rounds; round++) {
        const what = ['attribute', 'dismiss', 'adjust', 'attribute'][round % 4];
        const id = `k${round}`;
        let who = asFleet;
        let body = { reason: 'round' };
        if (what === 'attribute') {
            await report(event(id, 50, { key_hash: sha256('nobody') }));
            who = fleet;
            body = { tenant: 'acme', namespace: 'alice', workspace: 'dev', reason: 'round' };
        } else {
            await report(event(id, 20));
            expected += cost(20);
            await report(event(id, 30));
        }
        const it = await find(who, id);
        const under = decide(what, it, body, who).catch((e) => ({ status: 0, text: e.message }));
        await new Promise((resolve) => setTimeout(resolve, rnd.below(4))); // somewhere in its few milliseconds
        await reeve.restart('SIGKILL');
        const was = await under;
        if (what === 'attribute' && rnd.below(2) === 0 && was.status !== 200) {
            // Nobody asks again: it is as it was, or the start has gone on with it.
            await until('a whole state', 20000, async () => {
                const left = await find(fleet, id);
                const spent = units((await reeve.api('GET', '/v1/budgets/month')).body.spent.amount);
                return left ? spent === expected : spent === expected + cost(50);
            });
        }
        const answer = await decided(what, it, body, who);
        if (was.status === 200) assert.deepEqual(answer, was.body);
        if (what === 'attribute') expected += cost(50);
        if (what === 'adjust') expected += cost(10);
        await check();
        assert.equal(await find(who, id), undefined);
    }
});

test('each decision once in the audit log, with who and why', async () => {
    const all = async (who) => {
        const entries = [];
        for (let after = ''; ; ) {
            const page = await reeve.api('GET', `/v1/audit?limit=100${after ? `&after=${after}` : ''}`, who);
            assert.equal(page.status, 200, page.text);
            entries.push(...page.body.items);
            after = page.body.next;
            if (!after) return entries;
        }
    };
    const ofTenant = (await all({ key: 'acme owner' })).filter((e) => e.action.startsWith('suspense.'));
    const ofFleet = (await all(fleet)).filter((e) => e.action.startsWith('suspense.'));
    for (const e of [...ofTenant, ...ofFleet]) assert.match(e.actor, /operations/);
    assert.equal(new Set(ofTenant.map((e) => e.subject)).size, ofTenant.length);
    assert.equal(ofTenant.filter((e) => e.action === 'suspense.attribute').length, ofFleet.filter((e) => e.action === 'suspense.attribute').length);
    assert.equal(new Set(ofFleet.map((e) => e.subject)).size, ofFleet.length);
    assert.equal(ofTenant.find((e) => e.action === 'suspense.adjust').detail, 'final count');
    assert.equal(ofFleet[0].detail, 'to acme/alice/dev: their old deployment');
});
