// Reeve, the Docker engine and LiteLLM are killed at any moment, again and again, with creates, deletes and model calls
// under way, in sandboxes of both kinds.
// Afterwards: what Reeve acknowledged is in the ledger once, every workspace has one sandbox and one good key, and of
// what was deleted neither is left.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import { Docker } from './docker.mjs';
import { KeyApi } from './keyapi.mjs';
import { isLong, listen, needNodeInside, random, Reeve, sleep, units, decimal, until } from './lib.mjs';
import { LiteLLM, Provider } from './litellm.mjs';
import { after, before, context, test } from './suite.mjs';

const rounds = Number(process.env.ROUNDS ?? (isLong ? 40 : 2));
const seed = Number(process.env.SEED ?? Date.now() % 1000000);
const ORPHANS_MS = 60000; // what no workspace wants is gone within a minute
const SETTLED_MS = 120000; // a gateway that was away is asked again after a minute at most
const adminKey = 'sk-admin-of-the-test-55aa';
const names = ['a', 'b', 'c', 'd', 'e', 'f'];
const template = (name) => (names.indexOf(name) % 2 ? 'boxed' : 'coding');

/** Between LiteLLM and Reeve: knows which events Reeve has acknowledged. */
class Witness {
    static async start() {
        const witness = new Witness();
        witness.server = http.createServer((rq, answer) => witness.on(rq, answer).catch(() => answer.destroy()));
        witness.url = await listen(witness.server);
        return witness;
    }

    constructor() {
        this.rejected = []; // rows that Reeve did not take
        this.acknowledged = new Map(); // id, "#failed" behind that of a failed attempt -> what it said
    }

    async on(rq, answer) {
        const parts = [];
        for await (const part of rq) parts.push(part);
        const body = Buffer.concat(parts);
        const got = await new Promise((resolve, reject) => {
            const on = http.request(`${this.reeve.url}${rq.url}`, { method: rq.method, headers: { ...rq.headers, host: new URL(this.reeve.url).host }, agent: false }, (a) => {
                const pieces = [];
                a.on('data', (piece) => pieces.push(piece));
                a.on('end', () => resolve({ status: a.statusCode, type: a.headers['content-type'], body: Buffer.concat(pieces) }));
                a.on('error', reject);
            });
            on.on('error', reject);
            on.end(body);
        });
        if (rq.url.endsWith('/usage') && got.status === 200) {
            const text = (rq.headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body).toString();
            const told = JSON.parse(got.body.toString());
            this.rejected.push(...told.rejected);
            for (const line of text.split('\n').filter(Boolean)) {
                const event = JSON.parse(line);
                for (const e of Array.isArray(event) ? event : [event]) this.acknowledged.set(`${e.litellm_call_id}${e.status === 'failure' ? '#failed' : ''}`, `${e.status} ${e.call_type} ${e.endTime} ${e.error_str}`);
            }
        }
        answer.writeHead(got.status, { 'content-type': got.type ?? 'application/json', 'content-length': got.body.length }).end(got.body);
    }

    close() {
        this.server.closeAllConnections();
        this.server.close();
    }
}

let provider;
let docker;
let witness;
let lite;
let api;
let reeve;
let rnd;

before(async () => {
    console.log(`      faults seed ${seed}, ${rounds} rounds`);
    needNodeInside();
    rnd = random(seed);
    docker = await Docker.start({ liveRestore: rnd.below(2) === 0 });
    await docker.image();
    provider = await Provider.start();
    witness = await Witness.start();
    lite = await LiteLLM.prepare({ provider });
    api = await KeyApi.start({ adminKey, proxy: lite.url });
    reeve = await Reeve.start({
        tag: 'faults',
        gateway: api.url,
        edit: (config, folder) => {
            fs.writeFileSync(path.join(folder, 'admin.secret'), adminKey, { mode: 0o600 });
            Object.assign(config.gateways.main, { kind: 'litellm', admin_key: 'file:admin.secret' });
            config.providers.docker = { kind: 'docker', endpoint: docker.endpoint };
            config.templates.boxed = { providers: ['docker'], image: 'reeve/agent:latest', server: { agents: ['mock'] } };
            config.tenants.acme.templates.push('boxed');
            config.prices.file = 'test-prices.yaml';
            config.tenants.acme.budgets = [{ name: 'month', scope: 'tenant', limit: '1000000 USD', window: 'month' }];
            fs.writeFileSync(
                path.join(folder, 'test-prices.yaml'),
                JSON.stringify({ currency: 'USD', version: '1', models: { 'claude-sonnet-4-5': { input: '3', output: '15' } } }),
            );
        },
    });
    witness.reeve = reeve;
    witness.gatewaySecret = reeve.gatewaySecret;
    await lite.start(witness);
});
context(() => `seed ${seed}\n${reeve?.tail(25)}\n${lite?.tail()}\n${docker?.tail().slice(-600)}`);
after(async () => {
    await lite?.close();
    await reeve?.finish();
    api?.close();
    witness?.close();
    provider?.close();
    await docker?.finish();
});

/** name -> {id}: acknowledged and there; {gone: id}: its deletion was; {}: anything. */
const known = new Map();
let answered = 0;
let liteKills = 0;

async function tryCreate(name) {
    known.set(name, {});
    const made = await reeve.api('PUT', `/v1/workspaces/f/${name}?wait=20s`, { body: { template: template(name) } });
    if ([200, 201, 202].includes(made.status)) known.set(name, { id: made.body.id });
}

async function tryDelete(name) {
    const was = known.get(name);
    known.set(name, {});
    const gone = await reeve.api('DELETE', `/v1/workspaces/f/${name}?wait=${rnd.pick(['0s', '10s'])}`);
    if ([200, 202, 204, 404].includes(gone.status)) known.set(name, { gone: was?.id ?? true });
}

const script = `
    const { ANTHROPIC_BASE_URL: url, ANTHROPIC_API_KEY: key } = process.env;
    const headers = { "x-api-key": key, "content-type": "application/json" };
    fetch(url + "/v1/messages", { method: "POST", headers, body: process.argv[1], signal: AbortSignal.timeout(20000) })
        .then((got) => got.text().then(() => process.stdout.write(String(got.status))))
        .catch((e) => process.stdout.write(String(e)));`;

/** What an agent inside is answered: "200". */
async function call(name) {
    const body = JSON.stringify({ model: 'claude-sonnet-4-5', max_tokens: 64, messages: [{ role: 'user', content: `use ${100 + rnd.below(100)} ${1 + rnd.below(50)}` }] });
    const ran = await reeve.inside(`f/${name}`, '/bin/sh', ['-c', `exec node -e '${script}' '${body}'`]);
    if (ran.stdout === '200') answered++;
    return ran.stdout;
}

async function entries() {
    const month = new Date().toISOString().slice(0, 7);
    const got = await reeve.api('GET', `/v1/periods/${month}/export?format=jsonl`);
    assert.equal(got.status, 200, got.text);
    return got.text.split('\n').filter(Boolean).map((line) => JSON.parse(line));
}

/** The names of all sandboxes that run or stand, of both kinds. */
async function standing() {
    const boxes = (await docker.containers()).map((c) => c.Names[0].replace('/reeve-', ''));
    return [...new Set([...reeve.sandboxes(), ...boxes])];
}

const isOf = (sandbox, w) => sandbox.startsWith(w.id.replaceAll('_', '-'));

async function settled(say) {
    let now = [];
    let sandboxes = [];
    await until(say('no sandbox without a workspace'), ORPHANS_MS, async () => {
        now = await reeve.workspaces('acme');
        return (await standing()).every((s) => now.some((w) => isOf(s, w)));
    });
    await until(say('every workspace is ready, with one sandbox and one good key, and nothing else is left'), SETTLED_MS, async () => {
        now = await reeve.workspaces('acme');
        sandboxes = await standing();
        const owners = [...api.keys.values()].map((k) => `${k.metadata.reeve_workspace_id} ${k.blocked ? 'blocked' : 'good'}`).sort();
        const wanted = now.map((w) => `${w.id} good`).sort();
        return now.every((w) => w.state === 'ready') && sandboxes.length === now.length && JSON.stringify(owners) === JSON.stringify(wanted);
    }).catch((e) => {
        const keys = [...api.keys.values()].map((k) => `${k.key_alias} ${k.blocked ? 'blocked' : 'good'}`);
        throw new Error(`${e.message}\n${now.map((w) => `${w.name} ${w.id} ${w.state} ${w.reason}`).join('\n')}\nsandboxes: ${sandboxes.join(' ')}\nkeys: ${keys.join(', ')}`);
    });
    for (const w of now) assert.equal(sandboxes.filter((s) => isOf(s, w)).length, 1, say(w.id));
    return now;
}

async function check(round) {
    const say = (text) => `round ${round}, seed ${seed}: ${text}`;
    const now = await settled(say);
    for (const [name, it] of known) {
        const found = now.find((w) => w.name === name);
        if (it.id) assert.equal(found?.id, it.id, say(`${name} was acknowledged`));
        if (it.gone) assert.ok(!found || found.id !== it.gone, say(`${name}: its deletion was acknowledged`));
    }
    // whoever is there can make a call, and its report arrives
    const before = witness.acknowledged.size;
    for (const w of now) await until(say(`${w.name} is answered`), 60000, async () => (await call(w.name)) === '200');
    await until(say('all reports are delivered'), SETTLED_MS, () => lite.spooled().every((f) => fs.statSync(path.join(lite.folder, 'reeve-spool', f)).size === 0) && witness.acknowledged.size >= before + now.length);
    assert.deepEqual(witness.rejected, [], say('every event is taken'));
    const acknowledged = [...witness.acknowledged]; // more may come while the ledger is read
    const all = await entries();
    const times = new Map();
    const ids = new Set(all.map((e) => e.id.replace(/#failed@.*/, '#failed')));
    for (const e of all) times.set(e.id, (times.get(e.id) ?? 0) + 1);
    for (const [id, said] of acknowledged) assert.ok(ids.has(id), say(`${id} was acknowledged: ${said}`));
    assert.deepEqual([...times].filter(([, n]) => n !== 1), [], say('entries of one event'));
    // LiteLLM tells its callback after the answer: one that is killed between the two has told nobody
    assert.ok(all.length >= answered - liteKills * names.length, say(`${answered} calls were answered, ${all.length} are in the ledger`));
    const sum = all.reduce((s, e) => s + units(e.amount), 0n);
    const budget = (await reeve.api('GET', '/v1/budgets/month')).body;
    const later = await entries();
    if (later.length === all.length) assert.equal(budget.spent.amount, decimal(sum), say('the budget'));
    for (const name of names) {
        const it = now.find((w) => w.name === name);
        known.set(name, it ? { id: it.id } : { gone: true });
    }
}

test(`${rounds} rounds`, { timeout: 120000 + rounds * 240000 }, async () => {
    for (const name of names.slice(0, 4)) known.set(name, { id: (await reeve.workspace(`f/${name}`, { body: { template: template(name) } })).id });
    for (let round = 1; round <= rounds; round++) {
        const isOver = { now: false };
        const work = [];
        const begin = (fn) => work.push(fn().catch((e) => (e instanceof assert.AssertionError ? Promise.reject(e) : undefined)));
        const there = names.filter((name) => known.get(name)?.id);
        for (const name of there)
            begin(async () => {
                while (!isOver.now) await call(name);
            });
        if (rnd.below(2) === 0) api.modes = { '/key/generate': 'lost' };
        await sleep(rnd.below(1500)); // some calls first
        for (const name of names) {
            if (!there.includes(name)) begin(() => tryCreate(name));
            else if (rnd.below(2) === 0) begin(() => tryDelete(name));
        }
        await sleep(rnd.below(rnd.pick([100, 600, 2000])));
        // LiteLLM takes its time to start: of the first two rounds, one is enough
        const chosen = round === 1 ? ['reeve', 'lite'] : round === 2 ? ['docker', 'reeve'] : ['reeve', ...['lite', 'docker'].filter(() => rnd.below(2))];
        const victims = chosen.map((v) => [rnd.below(1000), v]).sort().map(([, v]) => v);
        for (const victim of victims) {
            if (victim === 'lite') {
                api.modes = { '*': 'away' };
                await lite.kill();
                liteKills++;
            } else if (victim === 'docker') {
                await docker.kill();
            } else {
                await reeve.kill('SIGKILL');
                reeve.isEnding = false;
            }
            await sleep(rnd.below(300));
        }
        isOver.now = true;
        await reeve.run();
        await Promise.all(work);
        if (victims.includes('docker')) await docker.run();
        if (victims.includes('lite')) await lite.start(witness);
        api.modes = {};
        await check(round);
    }
    console.log(`      ${answered} calls answered, ${witness.acknowledged.size} events, ${api.generated} keys made, ${api.deleted} revoked, ${reeve.runs} starts`);
});
