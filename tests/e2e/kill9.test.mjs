// kill -9 at any moment, again and again, with work under way. Afterwards: what was acknowledged holds, each event is
// counted once, nothing is stuck, no sandbox is left that nobody wants.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { decimal, isLong, random, Reeve, sha256, sleep, units, until } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

const rounds = Number(process.env.ROUNDS ?? (isLong ? 40 : 5));
const seed = Number(process.env.SEED ?? Date.now() % 1000000);
const SETTLED_MS = 60000;

let reeve;
let rnd;

before(async () => {
    console.log(`      kill9 seed ${seed}, ${rounds} rounds`);
    rnd = random(seed);
    reeve = await Reeve.start({
        tag: 'kill9',
        edit: (config, folder) => {
            config.prices.file = 'test-prices.yaml';
            config.tenants.acme.budgets = [{ name: 'month', scope: 'tenant', limit: '1000000 USD', window: 'month' }];
            fs.writeFileSync(
                path.join(folder, 'test-prices.yaml'),
                JSON.stringify({ currency: 'USD', version: '1', models: { m: { input: '0.000000000001', output: '0.000001' } } }),
            );
        },
    });
});
context(() => `seed ${seed}\n${reeve?.tail(25)}`);
after(() => reeve?.finish());

/** name -> what is known of it: {id} it is there; {gone: id} it is not, or has another id; {} anything. */
const known = new Map();
const batches = []; // all that were ever sent
let eventSequence = 0;

function tryUsage(keyHash) {
    const events = Array.from({ length: 1 + rnd.below(80) }, () => ({
        id: `e${++eventSequence}`,
        key_hash: keyHash,
        model: 'm',
        time: new Date(Date.now() - rnd.below(1000)).toISOString(),
        tokens: { input: rnd.below(1000), output: rnd.below(100) },
    }));
    const batch = { events, isAcknowledged: false };
    batches.push(batch);
    return send(batch);
}

async function send(batch) {
    const told = await reeve.api('POST', '/v1/gateways/main/usage', {
        key: null,
        headers: { authorization: `Bearer ${reeve.gatewaySecret}` },
        body: { events: batch.events },
    });
    if (told.status !== 200) return;
    assert.deepEqual(told.body.rejected, []);
    assert.equal(told.body.accepted + told.body.duplicates, batch.events.length);
    batch.isAcknowledged = true;
    batch.accepted = told.body.accepted;
}

async function tryCreate(name) {
    known.set(name, {});
    const made = await reeve.api('PUT', `/v1/workspaces/k/${name}?wait=10s`);
    if ([200, 201, 202].includes(made.status)) known.set(name, { id: made.body.id });
}

async function tryDelete(name) {
    const was = known.get(name);
    known.set(name, {});
    const gone = await reeve.api('DELETE', `/v1/workspaces/k/${name}?wait=${rnd.pick(['0s', '10s'])}`);
    if ([200, 202, 204, 404].includes(gone.status)) known.set(name, { gone: was.id ?? true });
}

const actions = { suspend: 'suspended', resume: 'ready', restart: 'ready' };

/** Which state it is to be in, if that was acknowledged. */
async function tryAction(name, action) {
    const it = known.get(name);
    it.state = undefined;
    const got = await reeve.api('POST', `/v1/workspaces/k/${name}/${action}?wait=10s`);
    if (got.status === 200 && got.body.state === actions[action]) it.state = got.body.state;
}

async function check(round) {
    const say = (text) => `round ${round}, seed ${seed}: ${text}`;
    // acknowledged writes, at once
    const first = new Map((await reeve.workspaces('acme')).map((w) => [w.name, w]));
    for (const [name, it] of known) {
        if (it.id) assert.equal(first.get(name)?.id, it.id, say(`${name} was acknowledged and is ${JSON.stringify(first.get(name))}`));
        else if (it.gone && first.has(name) && it.gone === first.get(name).id)
            assert.equal(first.get(name).state, 'deleting', say(`${name}: its deletion was acknowledged`));
    }
    // acknowledged events, at once and again after the gateway has sent the rest again
    const value = (list) => list.reduce((s, e) => s + BigInt(e.tokens.input) * 1n + BigInt(e.tokens.output) * 1000000n, 0n);
    const total = async () => units((await reeve.api('GET', '/v1/usage')).body.total.cost.amount);
    const atLeast = value(batches.filter((b) => b.isAcknowledged).flatMap((b) => b.events));
    const found = await total();
    assert.ok(found >= atLeast, say(`${decimal(found)} counted, ${decimal(atLeast)} acknowledged`));
    for (const b of batches.filter((x) => !x.isAcknowledged)) await send(b);
    assert.ok(batches.every((b) => b.isAcknowledged), say('a batch is not taken'));
    const all = value(batches.flatMap((b) => b.events));
    assert.equal(decimal(await total()), decimal(all), say('the sum'));
    const budget = (await reeve.api('GET', '/v1/budgets/month')).body;
    assert.equal(budget.spent.amount, decimal(all), say('the budget'));
    // nothing stuck, nothing surplus
    let now;
    let sandboxes;
    await until(say('every workspace settled, and one sandbox for each'), SETTLED_MS, async () => {
        now = await reeve.workspaces('acme');
        sandboxes = reeve.sandboxes();
        const running = now.filter((w) => w.state === 'ready').length;
        return now.every((w) => w.state === 'ready' || w.state === 'suspended') && sandboxes.length === running;
    }).catch((e) => {
        throw new Error(`${e.message}\n${now.map((w) => `${w.name} ${w.id} ${w.state} ${w.reason}`).join('\n')}\nsandboxes: ${sandboxes.join(' ')}`);
    });
    for (const w of now) {
        const mine = sandboxes.filter((s) => s.startsWith(w.id.replaceAll('_', '-'))).length;
        assert.equal(mine, w.state === 'ready' ? 1 : 0, say(`${w.id} ${w.state}: ${sandboxes.join(' ')}`));
        const wanted = known.get(w.name)?.state;
        if (wanted) assert.equal(w.state, wanted, say(`${w.name}: ${wanted} was acknowledged`));
    }
    for (const [name, it] of known)
        if (it.gone) assert.ok(!now.some((w) => w.name === name && w.id === it.gone), say(`${name} is deleted`));
    // what runs answers
    for (const w of now.filter((it) => it.state === 'ready')) {
        const health = await reeve.api('GET', `/w/k/${w.name}/v1/health`);
        assert.equal(health.status, 200, say(`${w.name}: ${health.text}`));
    }
    const homes = await reeve.api('GET', '/w/k/always/v1/fs/file?path=kept');
    assert.equal(homes.text, 'from the beginning', say('the home'));
    for (const name of [...known.keys()]) {
        const it = now.find((w) => w.name === name);
        known.set(name, it ? { id: it.id } : { gone: true });
    }
}

test(`${rounds} rounds`, { timeout: 60000 + rounds * 100000 }, async () => {
    const always = await reeve.workspace('k/always');
    known.set('always', { id: always.id });
    await reeve.put('k/always', 'kept', 'from the beginning');
    const keyHash = sha256((await reeve.inside('k/always', '/bin/sh', ['-c', 'printf %s "$ANTHROPIC_API_KEY"'])).stdout);
    for (let round = 1; round <= rounds; round++) {
        const work = [];
        const begin = (fn) => work.push(fn().catch((e) => (e instanceof assert.AssertionError ? Promise.reject(e) : undefined)));
        const there = [...known].filter(([name, it]) => it.id && name !== 'always').map(([name]) => name);
        for (const name of there) {
            const what = rnd.below(6);
            if (what < 3) begin(() => tryDelete(name));
            else if (what < 5) begin(() => tryAction(name, rnd.pick(Object.keys(actions))));
        }
        const free = [...Array(8).keys()].map((i) => `w${i}`).filter((name) => !there.includes(name));
        for (const name of free) if (rnd.below(2) > 0) begin(() => tryCreate(name));
        const isOver = { now: false };
        for (let i = 0; i < 4; i++)
            begin(async () => {
                while (!isOver.now) await tryUsage(keyHash);
            });
        await sleep(rnd.below(rnd.pick([60, 400, 1500])));
        await reeve.kill('SIGKILL');
        isOver.now = true;
        await Promise.all(work);
        reeve.isEnding = false;
        // sometimes it dies again while it comes up, or just after
        for (let again = rnd.below(3); again > 0; again--) {
            if (rnd.below(2) === 0) {
                await reeve.run();
                await sleep(rnd.below(300));
            } else {
                const starting = reeve.run().catch(() => {});
                await sleep(rnd.below(150));
                reeve.isEnding = true;
                reeve.child.kill('SIGKILL');
                await Promise.all([starting, reeve.child.ended]);
                reeve.isEnding = false;
                continue;
            }
            await reeve.kill('SIGKILL');
            reeve.isEnding = false;
        }
        await reeve.run();
        await check(round);
    }
    console.log(`      ${eventSequence} events in ${batches.length} batches, ${reeve.runs} starts`);
});
