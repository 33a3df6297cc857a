// Model calls from inside to a gateway outside, and what becomes of the reports: the ledger to the last digit.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { Gateway } from './gateway.mjs';
import { clientLibrary, decimal, failure, needNodeInside, parseCsv, prompt, random, Reeve, sha256, units, until, within } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

// For a million tokens. Twelve digits behind the point is the finest that a price may have.
const prices = {
    'model-one': { input: '3', output: '15', cache_read: '0.30', cache_write: '3.75' },
    'model-fine': { input: '0.000000123457', output: '1.000000000001', cache_read: '0.1', cache_write: '0' },
    'model-dear': { input: '75', output: '600' },
    'model-free': { input: '0', output: '0' },
};
const kinds = ['input', 'output', 'cache_read', 'cache_write'];

/** What an event costs, in 1e-18; undefined when there is no price for it. */
function costOf(event) {
    if (event.status === 'failure') return 0n;
    let sum = 0n;
    for (const kind of kinds) {
        const tokens = BigInt(event.tokens?.[kind] ?? 0);
        if (tokens === 0n) continue;
        const price = prices[event.model]?.[kind];
        if (price === undefined) return undefined;
        sum += tokens * (units(price) / 1000000n);
    }
    return prices[event.model] ? sum : undefined;
}

/** The same of what has a price, of an event that lacks another one. */
const partOf = (event) =>
    kinds.reduce((sum, kind) => sum + BigInt(event.tokens?.[kind] ?? 0) * (units(prices[event.model]?.[kind] ?? '0') / 1000000n), 0n);

const month = (time) => time.slice(0, 7);
const now = new Date();
const thisMonth = now.toISOString().slice(0, 7);
const lastMonth = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() - 1, 1)).toISOString().slice(0, 7);

let reeve;
let gateway;
let sdk;
const place = 'alice/dev';

before(async () => {
    needNodeInside();
    await clientLibrary();
    gateway = await Gateway.start();
    reeve = await Reeve.start({
        tag: 'money',
        gateway: gateway.url,
        edit: (config, folder) => {
            config.tenants.acme.budgets = [
                { name: 'month', scope: 'tenant', limit: '1000000 USD', window: 'month' },
                { name: 'each', scope: 'namespace', limit: '500000 USD', window: 'month' },
            ];
            config.tenants.globex.budgets = [{ name: 'month', scope: 'tenant', limit: '1 USD', window: 'month' }];
            config.prices = { file: 'test-prices.yaml', unpriced: 'deny' };
            fs.writeFileSync(path.join(folder, 'test-prices.yaml'), JSON.stringify({ currency: 'USD', version: 'test-1', models: prices }, null, 1));
        },
    });
    gateway.attach(reeve);
    await reeve.workspace(place, { body: { user: 'alice@example.org' } });
    await reeve.agentInto(place);
    sdk = await reeve.connect(place);
});
context(() => `${reeve?.tail(15)}\n${gateway?.failed?.stack ?? ''}`);
after(async () => {
    await sdk?.dispose();
    await reeve?.finish();
    gateway?.close();
});

const keyOf = async (where, key = 'acme owner') => (await reeve.inside(where, '/bin/sh', ['-c', 'printf %s "$ANTHROPIC_API_KEY"'], { key })).stdout;
const budget = async (name, tenant = 'acme') => (await reeve.api('GET', `/v1/budgets/${name}`, { key: `${tenant} viewer` })).body;
const usage = async (query, tenant = 'acme') => {
    const got = await reeve.api('GET', `/v1/usage?from=${lastMonth}-01${query}`, { key: `${tenant} viewer` });
    assert.equal(got.status, 200, got.text);
    return got.body;
};
async function suspense(key, headers) {
    const items = [];
    for (let after; ; ) {
        const page = await reeve.api('GET', `/v1/suspense?limit=100${after ? `&after=${encodeURIComponent(after)}` : ''}`, { key, headers });
        assert.equal(page.status, 200, page.text);
        items.push(...page.body.items);
        after = page.body.next;
        if (!after) return items;
    }
}
async function exported(period, tenant = 'acme') {
    const csv = await reeve.api('GET', `/v1/periods/${period}/export?format=csv`, { key: `${tenant} owner` });
    assert.equal(csv.status, 200, csv.text);
    const jsonl = await reeve.api('GET', `/v1/periods/${period}/export?format=jsonl`, { key: `${tenant} owner` });
    assert.equal(jsonl.status, 200);
    const rows = parseCsv(csv.text);
    const entries = jsonl.text.split('\n').filter(Boolean).map((line) => JSON.parse(line));
    return {
        rows,
        entries,
        csvSum: rows.reduce((sum, row) => sum + units(row.cost), 0n),
        jsonSum: entries.reduce((sum, entry) => sum + units(entry.amount), 0n),
    };
}

test('a model call, plain and streamed, comes to the gateway and into the ledger', async () => {
    const session = await sdk.createSession({ agent: 'mock' });
    const plain = await prompt(session, 'model model-one 1000 200');
    assert.match(plain.said[0], /^200 \{"id":"msg_1"/);
    const streamed = await prompt(session, 'model-stream model-fine 12345 678');
    assert.match(streamed.said[0], /^200 event: message_start/);
    assert.match(streamed.said[0], /message_stop/);
    await until('both reports', 10000, () => gateway.reported.length === 2);
    for (const it of gateway.reported) assert.deepEqual(it.answer, { accepted: 1, duplicates: 0, rejected: [] });
    const [verdict] = gateway.verdicts;
    const key = await keyOf(place);
    assert.deepEqual(
        [verdict.valid, verdict.key_hash, verdict.tenant, verdict.namespace, verdict.workspace, verdict.user],
        [true, sha256(key), 'acme', 'alice', 'dev', 'alice@example.org'],
    );
    // nothing of the sandbox's or the caller's own credentials goes to the gateway
    for (const call of gateway.calls) {
        assert.equal(call.headers.authorization, undefined);
        assert.equal(call.headers.cookie, undefined);
        assert.equal(call.headers['x-api-key'], key);
    }
    const want = 1000n * 3000000000000n + 200n * 15000000000000n + 12345n * 123457n + 678n * 1000000000001n;
    assert.equal(want, gateway.reported.reduce((sum, e) => sum + costOf(e), 0n));
    const got = await usage('');
    assert.equal(units(got.total.cost.amount), want);
    assert.equal(got.total.cost.currency, 'USD');
    assert.equal(got.total.tokens, 1000 + 200 + 12345 + 678);
    const own = await reeve.api('GET', `/v1/workspaces/${place}/usage?by=model`);
    assert.deepEqual(
        own.body.items.map((item) => [item.model, units(item.cost.amount)]),
        gateway.reported.map((e) => [e.model, costOf(e)]).sort(),
    );
    const file = await exported(thisMonth);
    assert.equal(file.csvSum, want);
    assert.equal(file.jsonSum, want);
    assert.equal(file.rows.length, 4);
    assert.ok(file.rows.every((row) => row.user === 'alice@example.org' && row.namespace === 'alice' && row.workspace === 'dev'));
    const spent = await budget('month');
    assert.equal(units(spent.spent.amount), want);
    assert.equal(units(spent.remaining.amount), units('1000000') - want);
});

test('a key that is wrong or of another workspace does not pass the door', async () => {
    await reeve.workspace('bob/dev');
    const bobs = await keyOf('bob/dev');
    const call = (where, key) =>
        reeve.inside(where, '/bin/sh', [
            '-c',
            `exec ${process.execPath} -e 'fetch("http://127.0.0.1:8700/v1/messages",{method:"POST",headers:{"x-api-key":process.argv[1],"content-type":"application/json"},body:"{}"}).then(async r=>console.log(r.status,await r.text()))' "${key}"`,
        ]);
    const before = gateway.calls.length;
    for (const key of [bobs, 'sk-ant-nonsense', '', await keyOf(place).then((k) => `${k}x`)]) {
        const got = await call(place, key);
        assert.match(got.stdout, /^401 /, got.stdout + got.stderr);
    }
    assert.equal(gateway.calls.length, before, 'nothing of it came to the gateway');
});

test('the gateway alone may verify and report', async () => {
    for (const secret of [reeve.key('acme owner'), reeve.key('fleet owner'), 'wrong', '']) {
        for (const [what, body] of [
            ['usage', { events: [] }],
            ['keys/verify', { key: 'x' }],
        ]) {
            const got = await reeve.api('POST', `/v1/gateways/main/${what}`, { key: null, body, headers: secret ? { authorization: `Bearer ${secret}` } : {} });
            assert.equal(got.status, 401, `${what}: ${got.text}`);
        }
    }
    const unknown = await gateway.post('keys/verify', { key: 'sk-nobody' });
    assert.deepEqual([unknown.status, unknown.body.valid], [200, false]);
});

test('500 events with duplicates, changes, strangers: totals to the last digit', { timeout: 120000 }, async () => {
    const seed = Number(process.env.SEED ?? Date.now() % 1000000);
    console.log(`      money seed ${seed}`);
    const rnd = random(seed);
    const keys = [await keyOf(place), await keyOf('bob/dev')].map(sha256);
    const places = ['alice', 'bob'];
    const base = await usage('');
    const baseSum = units(base.total.cost.amount);
    const from = Date.parse(`${lastMonth}-01T00:00:00Z`);
    const events = [];
    for (let i = 0; i < 500; i++) {
        const kind = rnd.below(100);
        const tokens = {};
        for (const k of kinds) if (rnd.below(3) > 0) tokens[k] = rnd.below(rnd.pick([10, 1000, 100000, 20000000]));
        const event = {
            id: `call-${i}${rnd.pick(['', '/x', ' é', '%20'])}`,
            key_hash: rnd.pick(keys),
            model: rnd.pick(Object.keys(prices)),
            time: new Date(from + rnd.below(Date.now() - 5000 - from)).toISOString(),
            tokens,
        };
        if (kind < 6) event.status = 'failure';
        else if (kind < 10) event.model = rnd.pick(['unheard-of', 'model-two']);
        else if (kind < 14) event.key_hash = sha256(`nobody ${rnd.below(5)}`);
        if (kind >= 14 && kind < 20) event.estimated = true;
        if (kind >= 20 && kind < 26) event.cost = `0.${rnd.below(1000000)}`;
        events.push(event);
    }
    // what should come of it, worked out here
    const posted = new Map(); // identity -> event
    const unsettled = []; // conflicts
    let unpriced = 0;
    let parts = 0n; // of those, what has a price, this month
    let strangers = 0;
    const identity = (e) => `${e.key_hash} ${e.id}`;
    for (const e of events) {
        if (!keys.includes(e.key_hash)) strangers++;
        else if (costOf(e) === undefined) {
            unpriced++;
            if (month(e.time) === thisMonth) parts += partOf(e);
        } else posted.set(identity(e), e);
    }
    // send: random batches, some twice; then changed ones
    let sent = { accepted: 0, duplicates: 0, rejected: {} };
    const send = async (batch) => {
        const told = await gateway.report(batch);
        assert.equal(told.status, 200, told.text);
        assert.equal(told.body.accepted + told.body.duplicates + told.body.rejected.length, batch.length);
        sent.accepted += told.body.accepted;
        sent.duplicates += told.body.duplicates;
        for (const r of told.body.rejected) sent.rejected[r.code] = (sent.rejected[r.code] ?? 0) + 1;
        return told.body;
    };
    const batches = [];
    for (let at = 0; at < events.length; ) {
        const n = 1 + rnd.below(60);
        batches.push(events.slice(at, at + n));
        at += n;
    }
    await Promise.all(batches.map(send)); // all at once, in no order
    assert.equal(sent.accepted, posted.size);
    assert.equal(sent.duplicates, 0);
    assert.deepEqual([sent.rejected.unpriced ?? 0, sent.rejected.unknown_key ?? 0], [unpriced, strangers]);
    sent = { accepted: 0, duplicates: 0, rejected: {} };
    await Promise.all([batches[0], batches[2], batches[2], events.slice(100, 300)].map(send));
    assert.equal(sent.accepted, 0, 'nothing is counted twice');
    // within one batch, too
    const twice = { id: 'twice', key_hash: keys[0], model: 'model-dear', time: now.toISOString(), tokens: { output: 7 } };
    const both = await send([twice, twice, twice]);
    assert.deepEqual([both.accepted, both.duplicates], [1, 2]);
    posted.set(identity(twice), twice);
    // the same ids with other facts
    sent = { accepted: 0, duplicates: 0, rejected: {} };
    const thisMonths = [...posted.values()].filter((e) => month(e.time) === thisMonth && e.status !== 'failure').slice(0, 20);
    for (const e of thisMonths) {
        const changed = { ...e, tokens: { ...e.tokens, output: (e.tokens.output ?? 0) + 1 + rnd.below(1000) } };
        if (prices[changed.model].output === undefined) continue;
        const cost = costOf(changed);
        if (cost !== undefined) unsettled.push({ event: changed, cost });
    }
    await send(unsettled.map((u) => u.event));
    await send(unsettled.map((u) => u.event)); // the conflict again is the same conflict
    assert.equal(sent.accepted + sent.duplicates, 0);
    assert.equal(sent.rejected.conflict, 2 * unsettled.length);
    // what is no fact may differ
    const late = { ...twice, estimated: true, cost: '9.99' };
    assert.equal((await send([late])).duplicates, 1);

    // the ledger
    const all = [...gateway.reported, ...posted.values()];
    const sum = (list) => list.reduce((s, e) => s + costOf(e), 0n);
    assert.equal(sum(all), baseSum + sum([...posted.values()]));
    const total = await usage('');
    assert.equal(total.total.cost.amount, decimal(sum(all)));
    for (const [by, name] of [
        ['model', (e) => e.model],
        ['day', (e) => e.time.slice(0, 10)],
        ['namespace', (e) => places[keys.indexOf(e.key_hash)] ?? 'alice'],
    ]) {
        const want = new Map();
        for (const e of all) if (e.status !== 'failure') want.set(name(e), (want.get(name(e)) ?? 0n) + costOf(e));
        const got = await usage(`&group_by=${by}`);
        // a group without any tokens has nothing to show
        for (const item of got.items) assert.equal(units(item.cost.amount), want.get(item[by]) ?? 0n, `${by} ${item[by]}`);
        assert.equal(got.items.reduce((s, item) => s + units(item.cost.amount), 0n), sum(all));
    }
    for (const kind of kinds) {
        const want = all.filter((e) => e.status !== 'failure').reduce((s, e) => s + (e.tokens?.[kind] ?? 0), 0);
        assert.equal(total.total[kind], want, kind);
    }
    // the two files
    let files = 0n;
    for (const period of [lastMonth, thisMonth]) {
        const file = await exported(period);
        const here = all.filter((e) => month(e.time) === period);
        assert.equal(file.entries.length, here.length, period);
        assert.equal(file.csvSum, sum(here), period);
        assert.equal(file.jsonSum, sum(here), period);
        const byId = new Map(file.entries.map((e) => [`${e.key_hash} ${e.id}`, e]));
        for (const e of here) assert.equal(units(byId.get(identity(e)).amount), costOf(e), e.id);
        files += file.csvSum;
    }
    assert.equal(files, sum(all));
    // the budgets: this month only, and what is in doubt counts
    const current = all.filter((e) => month(e.time) === thisMonth);
    const doubt = unsettled.reduce((s, u) => s + u.cost, parts);
    const view = await budget('month');
    assert.equal(view.spent.amount, decimal(sum(current)));
    assert.equal(view.unsettled.amount, decimal(doubt));
    assert.equal(view.remaining.amount, decimal(units('1000000') - sum(current) - doubt));
    const each = (await reeve.api('GET', '/v1/budgets/each/instances')).body.items;
    for (const [i, namespace] of places.entries()) {
        const ofIt = current.filter((e) => e.key_hash === keys[i]);
        const instance = each.find((b) => b.namespace === namespace);
        assert.equal(instance.spent.amount, decimal(sum(ofIt)), namespace);
    }
    // suspense: each once
    const mine = await suspense('acme owner');
    assert.equal(mine.filter((s) => s.reason === 'unpriced').length, unpriced);
    assert.equal(mine.filter((s) => s.reason === 'conflict').length, unsettled.length);
    assert.equal(mine.length, unpriced + unsettled.length);
    assert.equal((await suspense('fleet owner')).filter((s) => s.reason === 'unknown_key').length, strangers);
});

test('all of it is there after a restart', async () => {
    const was = [await usage(''), await budget('month'), await suspense('acme owner'), (await exported(thisMonth)).csvSum];
    await reeve.restart('SIGKILL');
    assert.deepEqual([await usage(''), await budget('month'), await suspense('acme owner'), (await exported(thisMonth)).csvSum], was);
});

test('an unknown model gets a price: its events are posted when they come again, and leave suspense', async () => {
    const key = sha256(await keyOf(place));
    const event = { id: 'late-price', key_hash: key, model: 'model-late', time: new Date().toISOString(), tokens: { input: 1000000 } };
    assert.equal((await gateway.report([event])).body.rejected[0].code, 'unpriced');
    prices['model-late'] = { input: '1.5', output: '2' };
    fs.writeFileSync(path.join(reeve.folder, 'test-prices.yaml'), JSON.stringify({ currency: 'USD', version: 'test-2', models: prices }));
    const reloaded = await reeve.api('POST', '/v1/reload', { key: 'fleet owner' });
    assert.equal(reloaded.status, 200, reloaded.text);
    const before = units((await usage('')).total.cost.amount);
    assert.deepEqual((await gateway.report([event])).body, { accepted: 1, duplicates: 0, rejected: [] });
    assert.equal(units((await usage('')).total.cost.amount), before + units('1.5'));
    assert.equal((await suspense('acme owner')).filter((s) => s.id === 'late-price').length, 0);
});

test('at the limit prompts are refused, the client lives, and a higher limit lets them pass', { timeout: 120000 }, async () => {
    const key = 'globex owner';
    await reeve.workspace('carol/dev', { key });
    await reeve.agentInto('carol/dev', { key });
    const client = await reeve.connect('carol/dev', { key });
    const session = await client.createSession({ agent: 'mock' });
    const seen = gateway.reported.length;
    assert.match((await prompt(session, 'model model-one 200000 20000')).said[0], /^200 /); // 0.9 USD
    await until('its report', 10000, () => gateway.reported.length === seen + 1);
    assert.deepEqual((await prompt(session, 'echo below the limit')).said, ['below the limit']);
    assert.match((await prompt(session, 'model model-one 100000 10000')).said[0], /^200 /); // 0.45 more
    await until('its report', 10000, () => gateway.reported.length === seen + 2);
    assert.equal((await budget('month', 'globex')).spent.amount, '1.35');

    for (let i = 0; i < 3; i++) {
        const error = await failure(within(10000, 'the refusal', session.prompt([{ type: 'text', text: 'echo over' }])));
        assert.equal(error.code, -32010, error.stack);
        assert.equal(error.data.code, 'budget_exceeded');
        assert.match(error.message, /budget `month`/);
    }
    // model calls of what still runs, too, in a way that a model's client does not try again
    const direct = await reeve.inside(
        'carol/dev',
        process.execPath,
        [
            '-e',
            'fetch("http://127.0.0.1:8700/v1/messages",{method:"POST",headers:{"x-api-key":process.env.ANTHROPIC_API_KEY},body:"{}"}).then(async r=>console.log(r.status,await r.text()))',
        ],
        { key },
    );
    assert.match(direct.stdout, /^400 .*budget_exceeded/, direct.stdout + direct.stderr);
    // making and waking is refused, what is there is there
    const more = await reeve.api('PUT', '/v1/workspaces/carol/more', { key });
    assert.equal(more.status, 402, more.text);
    assert.equal(more.body.code, 'budget_exceeded');
    assert.equal((await reeve.api('PUT', '/v1/workspaces/carol/dev', { key })).status, 200);
    assert.deepEqual(await client.getHealth(), { status: 'ok' });
    // the other tenant does not notice
    assert.deepEqual((await prompt(await sdk.createSession({ agent: 'mock' }), 'echo not mine')).said, ['not mine']);

    reeve.config.tenants.globex.budgets[0].limit = '2 USD';
    reeve.writeConfig();
    const reloaded = await reeve.api('POST', '/v1/reload', { key: 'fleet owner' });
    assert.equal(reloaded.status, 200, reloaded.text);
    assert.deepEqual((await prompt(session, 'echo higher')).said, ['higher']);
    assert.equal((await reeve.api('PUT', '/v1/workspaces/carol/more?wait=60s', { key })).status, 201);
    await client.dispose();
});

test('a key of a workspace that is gone: its last reports are still counted, calls are not', async () => {
    const key = await keyOf('bob/dev');
    await reeve.remove('bob/dev');
    assert.equal((await gateway.post('keys/verify', { key })).body.valid, false);
    const before = units((await usage('')).total.cost.amount);
    const event = { id: 'after the end', key_hash: sha256(key), model: 'model-one', time: new Date().toISOString(), tokens: { input: 1000 } };
    assert.deepEqual((await gateway.report([event])).body, { accepted: 1, duplicates: 0, rejected: [] });
    assert.equal(units((await usage('')).total.cost.amount), before + units('0.003'));
});
