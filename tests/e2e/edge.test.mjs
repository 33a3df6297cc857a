// Where many clients, agents and gateways meet: bodies that outlast their key, credentials at the door, floods, budgets
// and sleep, hostile servers inside, limits of streams, an end in the middle of it all.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { failure, needNodeInside, prompt, Reeve, sha256, sleep, slow, until, within } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const place = 'alice/dev';
const other = 'alice/other';

// A gateway that only writes down what comes.
const arrived = [];
const gateway = http.createServer((rq, answer) => {
    arrived.push({ url: rq.url, headers: rq.rawHeaders });
    rq.resume();
    rq.on('end', () => answer.writeHead(200, { 'content-type': 'application/json' }).end('{}'));
});

let reeve;

before(async () => {
    needNodeInside();
    await new Promise((resolve) => gateway.listen(0, '127.0.0.1', resolve));
    reeve = await Reeve.start({
        tag: 'edge',
        gateway: `http://127.0.0.1:${gateway.address().port}`,
        edit: (config, folder) => {
            const { providers, server } = config.templates.coding;
            config.templates.sleepy = { providers, server, idle: { suspend_after: '2s' } };
            config.templates.impatient = { providers, server: { ...server, env: { SANDBOX_AGENT_ACP_REQUEST_TIMEOUT_MS: '1000' } } };
            config.tenants.acme.templates = ['coding', 'impatient'];
            config.tenants.globex.templates = ['sleepy'];
            config.tenants.globex.budgets = [{ name: 'month', scope: 'tenant', limit: '1 USD', window: 'month' }];
            config.prices = { file: 'test-prices.yaml', unpriced: 'deny' };
            fs.writeFileSync(path.join(folder, 'test-prices.yaml'), JSON.stringify({ currency: 'USD', version: 'test-1', models: { 'model-one': { input: '3', output: '15' } } }));
        },
    });
    await reeve.workspace(place);
    await reeve.workspace(other);
    await reeve.agentInto(place);
});
context(() => reeve?.tail(15));
after(async () => {
    try {
        await reeve?.finish();
    } finally {
        gateway.closeAllConnections();
        gateway.close();
    }
});

const port = () => Number(new URL(reeve.url).port);
const descriptors = () => fs.readdirSync(`/proc/${reeve.pid}/fd`).length;
const memory = () => Number(/^VmRSS:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${reeve.pid}/status`, 'utf8'))[1]) / 1024;
const isSanitized = slow > 1; // its freed memory is kept for a while: growth says nothing
const message = (id, method, params) => ({ jsonrpc: '2.0', id, method, params });
const initialize = message(0, 'initialize', { protocolVersion: 1, clientInfo: { name: 'edge', version: '1' } });
const promptOf = (id, sessionId, text) => message(id, 'session/prompt', { sessionId, prompt: [{ type: 'text', text }] });

async function agentSession(where, id) {
    const hello = await reeve.api('POST', `/w/${where}/v1/acp/${id}?agent=mock`, { body: initialize });
    assert.equal(hello.body?.result?.protocolVersion, 1, hello.text);
    const made = await reeve.api('POST', `/w/${where}/v1/acp/${id}`, { body: message(1, 'session/new', { cwd: '/', mcpServers: [] }) });
    assert.ok(made.body?.result?.sessionId, made.text);
    return made.body.result.sessionId;
}

/** A connection of bytes: what is written goes out as it is; `text` is what came. */
async function raw(first) {
    const it = { text: '' };
    it.socket = net.connect(port(), '127.0.0.1');
    it.closed = new Promise((resolve) => it.socket.on('close', resolve));
    it.socket.on('error', () => {});
    it.socket.on('data', (part) => (it.text += part.toString('latin1')));
    it.status = () => Number(/^HTTP\/1\.1 (\d+)/.exec(it.text)?.[1]);
    it.answered = (ms = 30000) => until('an answer', ms, () => it.text.includes('\r\n\r\n'));
    it.close = () => it.socket.destroy();
    await new Promise((resolve) => it.socket.write(first, resolve));
    return it;
}

/** An event stream; `status` of its answer. As browsers and the client library ask, who keep their connections. */
function stream(target, connection = 'keep-alive') {
    const it = { text: '' };
    it.status = new Promise((resolve, reject) => {
        it.rq = http.request(`${reeve.url}${target}`, { agent: false, headers: { connection, accept: 'text/event-stream', authorization: `Bearer ${reeve.key('acme owner')}` } }, (answer) => {
            answer.on('data', (part) => (it.text += part));
            answer.on('error', () => {});
            resolve(answer.statusCode);
        });
        it.rq.on('error', reject);
        it.rq.end();
    });
    it.status.catch(() => {});
    it.close = () => it.rq.destroy();
    return it;
}

const upgrade = (target) =>
    raw(
        `GET ${target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${reeve.key('acme owner')}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
            'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
    );

async function isAlive() {
    assert.equal(reeve.crash(), undefined);
    assert.equal((await reeve.api('GET', '/healthz', { timeout: 5000 })).status, 200);
}

// --- keys and bodies

/** A request whose body's rest comes only after `between`; gives its status and the answer. */
async function slowBody(method, target, key, body, between) {
    const it = await raw(
        `${method} ${target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${key}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body.slice(0, 5)}`,
    );
    await sleep(150);
    await between();
    it.socket.write(body.slice(5));
    await it.closed;
    return it;
}

for (const [what, between, wanted] of [
    ['its key is revoked', (id) => reeve.api('DELETE', `/v1/keys/${id}`).then((a) => assert.equal(a.status, 204)), 401],
    ['the configuration is read again', () => reeve.api('POST', '/v1/reload', { key: 'fleet owner' }).then((a) => assert.equal(a.status, 200, a.text)), 201],
])
    test(`a body under way while ${what}`, { timeout: 90000 }, async () => {
        for (const [i, [method, target, body, wants]] of [
            ['POST', '/v1/workspaces/find-or-create?wait=30s', '{"namespace":"bob","name":"slow"}', [wanted]],
            ['PUT', '/v1/workspaces/bob/slow?wait=30s', '{"labels":{}}', [wanted === 201 ? 200 : wanted]],
            // these bodies were let pass as they came
            ['PUT', `/w/${place}/v1/fs/file?path=slow`, 'some content', [200, 401]],
            ['POST', `/w/${place}/v1/acp/slow-${wanted}?agent=mock`, JSON.stringify(initialize), [200, 401]],
        ].entries()) {
            const made = await reeve.api('POST', '/v1/keys', { body: { name: `slow-${wanted}-${i}`, role: 'owner', namespaces: ['alice', 'bob'] } });
            assert.equal(made.status, 201, made.text);
            const got = await slowBody(method, target, made.body.key, body, () => between(made.body.id));
            assert.ok(wants.includes(got.status()), `${method} ${target}: ${got.text}`);
            await isAlive();
            if (wanted === 401) assert.equal((await reeve.api('GET', '/v1/whoami', { key: made.body.key })).status, 401);
            else assert.equal((await reeve.api('DELETE', `/v1/keys/${made.body.id}`)).status, 204);
        }
        if (wanted === 401) assert.equal((await reeve.api('GET', '/v1/workspaces/bob/slow')).status, 404, 'nothing was made');
        else await reeve.remove('bob/slow');
    });

test('an owner of one namespace neither sees nor ends the keys of others, nor what is in suspense', async () => {
    const key = 'acme alices';
    const made = await reeve.api('POST', '/v1/keys', { body: { name: 'victim', role: 'owner', namespaces: ['bob'] } });
    assert.equal(made.status, 201, made.text);
    for (const [method, target] of [
        ['GET', '/v1/keys'],
        ['DELETE', `/v1/keys/${made.body.id}`],
        ['DELETE', '/v1/keys/nothing'],
        ['GET', '/v1/suspense'],
    ]) {
        const got = await reeve.api(method, target, { key });
        assert.deepEqual([got.status, got.body?.code], [403, 'forbidden'], `${method} ${target}: ${got.text}`);
    }
    const whoami = await reeve.api('GET', '/v1/whoami', { key: made.body.key });
    assert.equal(whoami.status, 200, 'it is still good');
    assert.equal((await reeve.api('GET', '/v1/suspense')).status, 200);
    assert.equal((await reeve.api('DELETE', `/v1/keys/${made.body.id}`)).status, 204);
});

// --- the door

/** Requests at the door from inside; each is [path, header lines], OWN stands for the workspace's key. Their statuses. */
async function atDoor(where, requests) {
    const script = `const net = require('node:net');
        const ask = ([path, lines]) => new Promise((resolve) => {
            let text = '';
            const s = net.connect(8700, '127.0.0.1', () => s.write(['POST ' + path + ' HTTP/1.1', 'Host: x', 'Content-Length: 21', 'Connection: close', ...lines].join('\\r\\n').replaceAll('OWN', process.env.ANTHROPIC_API_KEY) + '\\r\\n\\r\\n{"model":"model-one"}'));
            s.on('data', (part) => (text += part));
            s.on('error', () => {});
            s.on('close', () => resolve(Number(text.split(' ')[1])));
            setTimeout(() => s.destroy(), 8000).unref();
        });
        (async () => { const out = []; for (const r of JSON.parse(process.argv[1])) out.push(await ask(r)); console.log(JSON.stringify(out)); })();`;
    const ran = await reeve.inside(where, process.execPath, ['-e', script, JSON.stringify(requests)]);
    assert.equal(ran.exitCode, 0, ran.stderr);
    return JSON.parse(ran.stdout);
}

test('the door lets one credential pass, and none but its own', async () => {
    const messages = '/v1/messages';
    const own = 'x-api-key: OWN';
    const refused = [
        [messages, [own, 'Authorization: Bearer sk-other']],
        [messages, ['x-api-key: sk-other', 'Authorization: Bearer OWN']],
        [messages, [own, 'Authorization: Basic c2s6b3RoZXI=']],
        [messages, [own, 'Authorization: OWN']],
        [messages, [own, 'x-api-key: sk-other']],
        [messages, [own, own]],
        [messages, ['Authorization: Bearer OWN', 'Authorization: Bearer sk-other']],
        [messages, [own, 'api-key: sk-other']],
        [messages, [own, 'API-Key: OWN']],
        [messages, [own, 'x-goog-api-key: sk-other']],
        [messages, []],
        [messages, [own, 'Ocp-Apim-Subscription-Key: sk-other']],
        [`${messages}?key=sk-other`, [own]],
        [`${messages}?x=1&api_key=sk-other`, [own]],
        [`${messages}?k%65y=sk-other`, [own]],
        [`${messages}?access_token=sk-other`, [own]],
        ['/v1/x%2f..%2f..%2fkey%2fgenerate', [own]],
        ['/v1/x%2Fy', [own]],
        ['/v1/../key/generate', [own]],
        ['/v1/x/../../key/generate', [own]],
        ['/v1/./messages', [own]],
        ['/v1/%2e%2e/key/generate', [own]],
        ['/v1//messages', [own]],
        ['/v1/messages/..', [own]],
        ['/v1/x\\..\\y', [own]],
        ['/v1/messages;x=y', [own]],
    ];
    const statuses = await atDoor(place, refused);
    for (const [i, status] of statuses.entries()) assert.ok([400, 401].includes(status), `${status} for ${JSON.stringify(refused[i])}`);
    assert.deepEqual(arrived, [], 'nothing of it came to the gateway');

    const key = (await reeve.inside(place, '/bin/sh', ['-c', 'printf %s "$ANTHROPIC_API_KEY"'])).stdout;
    const steering = ['x-litellm-call-id: 1', 'X-LiteLLM-Tags: free', 'x-portkey-config: {}', 'litellm-disable-message-redaction: true', 'litellm_user_api_key: x', 'langfuse_trace_id: 1', 'x-mcp-servers: all', 'X-Original-URL: /key/generate', 'X-HTTP-Method-Override: GET', 'Cookie: a=b', 'X-Forwarded-For: 1.2.3.4', 'Connection: close, x-hop', 'x-hop: 1'];
    const passed = [
        [messages, [own]],
        [messages, ['Authorization: Bearer OWN']],
        [messages, [own, 'Authorization: Bearer OWN', ...steering]],
        ['/v1/chat/completions?beta=true', ['Authorization: bearer OWN', 'anthropic-version: 2023-06-01', ...steering]],
    ];
    assert.deepEqual(await atDoor(place, passed), [200, 200, 200, 200]);
    assert.equal(arrived.length, 4);
    assert.equal(arrived[3].url, '/v1/chat/completions?beta=true');
    for (const { headers } of arrived.splice(0)) {
        const names = headers.filter((_, i) => i % 2 === 0).map((name) => name.toLowerCase());
        const values = headers.filter((_, i) => i % 2 === 1);
        assert.equal(values.filter((v) => v.includes(key)).length, 1, JSON.stringify(headers.map((h) => h.replace(key, 'OWN'))));
        assert.equal(names.filter((n) => ['x-api-key', 'authorization', 'api-key', 'x-goog-api-key'].includes(n)).length, 1);
        for (const n of names) assert.ok(!/^(x-litellm-|litellm|langfuse|x-mcp-|x-original-|x-http-method|x-portkey-|x-forwarded-|cookie$|x-hop$)/.test(n), n);
    }
});

test('a thousand connections at the door stop nobody', { timeout: 120000 }, async () => {
    const idle = descriptors();
    const script = `const net = require('node:net');
        let n = 0;
        for (let i = 0; i < 1000; i++) { const s = net.connect(8700, '127.0.0.1', () => n++); s.on('error', () => {}); }
        setTimeout(() => console.log(n), 4000); setTimeout(() => process.exit(), 8000);`;
    const flooding = reeve.api('POST', `/w/${place}/v1/processes/run`, { body: { command: process.execPath, args: ['-e', script], timeoutMs: 60000 } });
    let isOver = false;
    let most = 0;
    let slowest = 0;
    let rounds = 0;
    flooding.finally(() => (isOver = true)).catch(() => {});
    while (!isOver) {
        const from = Date.now();
        assert.equal((await reeve.api('GET', '/healthz', { timeout: 5000 })).status, 200);
        assert.equal((await reeve.api('GET', `/w/${other}/v1/health`, { timeout: 5000 })).status, 200);
        slowest = Math.max(slowest, Date.now() - from);
        if (rounds++ % 10 === 5) assert.deepEqual(await atDoor(other, [['/v1/messages', ['x-api-key: OWN']]]), [200], 'the door of another');
        most = Math.max(most, descriptors());
        await sleep(50);
    }
    const ran = await flooding;
    assert.ok(Number(ran.body?.stdout) > 128, `the flood did not come: ${ran.text}`);
    assert.ok(rounds > 5);
    assert.ok(most - idle > 60, `it came to Reeve: ${idle} descriptors before, ${most} at most`);
    assert.ok(most - idle <= 128 + 24, `${idle} descriptors before, ${most} at most`);
    assert.ok(slowest < 2000 * slow, `${slowest} ms`);
    await until('its descriptors are closed', 15000, () => descriptors() <= idle + 8);
    await until('its door is open again', 10000, async () => (await atDoor(place, [['/v1/messages', ['x-api-key: OWN']]]))[0] === 200);
    arrived.length = 0;
});

// --- budgets

test('with its budget spent, what sleeps is not woken', { timeout: 120000 }, async () => {
    const key = 'globex owner';
    const asleep = async () => (await reeve.api('GET', '/v1/workspaces/carol/dev', { key })).body.state === 'suspended';
    await reeve.workspace('carol/dev', { key });
    const llmKey = (await reeve.inside('carol/dev', '/bin/sh', ['-c', 'printf %s "$ANTHROPIC_API_KEY"'], { key })).stdout;
    const event = { id: 'all of it', key_hash: sha256(llmKey), model: 'model-one', time: new Date().toISOString(), tokens: { output: 100000 } };
    const told = await reeve.api('POST', '/v1/gateways/main/usage', { key: null, headers: { authorization: `Bearer ${reeve.gatewaySecret}` }, body: { events: [event] } });
    assert.deepEqual(told.body, { accepted: 1, duplicates: 0, rejected: [] }, told.text);
    await until('it sleeps', 30000, asleep);

    for (const [method, target] of [
        ['GET', '/w/carol/dev/v1/fs/entries?path=.'],
        ['GET', '/w/carol/dev/v1/health'],
        ['GET', '/w/carol/dev/v1/acp'],
        ['PUT', '/v1/workspaces/carol/dev?wait=30s'],
        ['POST', '/v1/workspaces/carol/dev/resume?wait=30s'],
        ['POST', '/v1/workspaces/carol/dev/restart?wait=30s'],
    ]) {
        const got = await reeve.api(method, target, { key });
        assert.deepEqual([got.status, got.body?.code], [402, 'budget_exceeded'], `${method} ${target}: ${got.status} ${got.text}`);
        assert.match(got.headers['content-type'], /^application\/problem\+json/);
    }
    for (const body of [initialize, promptOf(5, 'any', 'echo x')]) {
        const got = await reeve.api('POST', '/w/carol/dev/v1/acp/any?agent=mock', { key, body });
        assert.deepEqual([got.status, got.body?.id, got.body?.error?.code], [200, body.id, -32010], got.text);
    }
    await sleep(500);
    assert.ok(await asleep(), 'nothing of it woke it');

    reeve.config.tenants.globex.budgets[0].limit = '10 USD';
    reeve.writeConfig();
    assert.equal((await reeve.api('POST', '/v1/reload', { key: 'fleet owner' })).status, 200);
    assert.equal((await reeve.api('GET', '/w/carol/dev/v1/fs/entries?path=.', { key })).status, 200, 'with a higher one it is');
    await reeve.remove('carol/dev', { key });
});

// --- streams and sessions

test('what the server inside never answers does not hold a connection', { timeout: 90000 }, async () => {
    const where = 'alice/impatient';
    await reeve.workspace(where, { body: { template: 'impatient' } });
    await reeve.agentInto(where);
    const s = await agentSession(where, 'long');
    const st = stream(`/w/${where}/v1/acp/long`);
    assert.equal(await st.status, 200);
    await sleep(300);
    const idle = descriptors();
    const ids = Array.from({ length: 20 }, (_, i) => 100 + i);
    for (const got of await Promise.all(ids.map((id) => reeve.api('POST', `/w/${where}/v1/acp/long`, { body: promptOf(id, s, 'sleep 2500') })))) assert.equal(got.status, 202, got.text);
    await until('twenty answers on the stream', 20000, () => ids.every((id) => new RegExp(`"id":${id}[,}]`).test(st.text)));
    const answers = st.text.split('\n').filter((line) => line.startsWith('data:')).map((line) => JSON.parse(line.slice(5)));
    for (const id of ids) assert.deepEqual(answers.filter((a) => a.id === id).map((a) => a.result ?? a.error), [{ stopReason: 'end_turn' }], `the answer to ${id}, once`);
    await until(`no more than ${idle} descriptors and a few`, 10000, () => descriptors() <= idle + 6);
    assert.deepEqual((await reeve.api('POST', `/w/${where}/v1/acp/long`, { body: promptOf(3, s, 'echo x') })).status, 202);
    await until('the next', 5000, () => /"id":3[,}]/.test(st.text));
    st.close();
    await reeve.remove(where);
});

for (const connection of ['keep-alive', 'close'])
    test(`a reader that left is let go of (connection: ${connection})`, { timeout: 60000 }, async () => {
        const where = `alice/left-${connection}`;
        await reeve.workspace(where);
        await reeve.agentInto(where);
        await agentSession(where, 'live');
        await sleep(1500);
        const silent = (await reeve.api('POST', `/w/${where}/v1/processes`, { body: { command: '/bin/sleep', args: ['600'] } })).body.id;
        const stays = {};
        for (const target of [`/w/${where}/v1/acp/nobody`, `/w/${where}/v1/acp/live`, `/w/${where}/v1/processes/${silent}/logs?follow=true`, `/v1/workspaces/${where}/events`]) {
            const idle = descriptors();
            const all = Array.from({ length: 10 }, () => stream(target, connection));
            for (const st of all) assert.equal(await st.status, 200);
            await sleep(300);
            for (const st of all) st.close();
            await until('nothing of them is left', 3000, () => descriptors() <= idle + 3).catch(() => (stays[target] = descriptors() - idle));
        }
        assert.deepEqual(stays, {}, 'descriptors that stay open');
        await reeve.remove(where);
    });

test('the watch over a prompt takes no place of a reader, and ends with it', { timeout: 60000 }, async () => {
    const where = 'alice/watched';
    await reeve.workspace(where, { body: { template: 'impatient' } });
    await reeve.agentInto(where);
    const sessions = [];
    for (let i = 0; i < 3; i++) sessions.push(await agentSession(where, `watched-${i}`));
    await sleep(1500);
    const idle = descriptors();
    // its readers leave while the prompt goes on for longer than the server inside waits for its answer
    const readers = sessions.map((_, i) => stream(`/w/${where}/v1/acp/watched-${i}`));
    for (const st of readers) assert.equal(await st.status, 200);
    await sleep(300);
    for (const [i, s] of sessions.entries()) assert.equal((await reeve.api('POST', `/w/${where}/v1/acp/watched-${i}`, { body: promptOf(50, s, 'sleep 2500') })).status, 202);
    await sleep(200);
    for (const st of readers) st.close();
    await sleep(500);
    const crowd = Array.from({ length: 16 }, () => stream(`/w/${where}/v1/acp/watched-0`));
    const statuses = await Promise.all(crowd.map((st) => st.status));
    for (const st of crowd) st.close();
    await sleep(3000 * slow);
    await until(`the watch ends: ${idle} descriptors before`, 5000, () => descriptors() <= idle).catch((e) => {
        throw new Error(`${e.message}, ${descriptors()} after`);
    });
    assert.deepEqual(statuses, statuses.map(() => 200), 'sixteen readers of one server id');
    await reeve.remove(where);
});

test('2000 server ids that nobody has: 404, and nothing of them is kept', { timeout: 120000 }, async () => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });
    const round = async (name, n) => {
        let next = 0;
        const work = async () => {
            while (next < n) {
                const target = `/w/${place}/v1/acp/${name}-${next++}-${'x'.repeat(90)}`;
                const gone = await reeve.api('DELETE', target);
                assert.equal(gone.status, 404, gone.text);
                if (next % 4 > 0) continue;
                const st = stream(target); // may be opened before there is anything to follow
                assert.equal(await st.status, 200);
                st.close();
            }
        };
        await Promise.all(Array.from({ length: 8 }, work));
    };
    reeve.agent = agent;
    try {
        await round('warm', 200);
        const before = memory();
        await round('random', 2000);
        await sleep(500);
        const grown = memory() - before;
        assert.ok(isSanitized || grown < 20, `${grown} MiB more`);
    } finally {
        reeve.agent = undefined;
        agent.destroy();
    }
    const listed = await reeve.api('GET', `/w/${place}/v1/acp`);
    assert.ok(!listed.text.includes('random-'), listed.text.slice(0, 300));
});

test('after its agent died a session is lost at once, and a new client works', { timeout: 90000 }, async () => {
    const client = await reeve.connect(place);
    const session = await client.createSession({ agent: 'mock' });
    assert.deepEqual((await prompt(session, 'echo before')).said, ['before']);
    const text = (value) => [{ type: 'text', text: value }];
    const died = await failure(within(10000, 'the prompt fails', session.prompt(text('die 9'))));
    assert.equal(typeof died.code, 'number', died.stack);
    for (let i = 0; i < 3; i++) {
        const from = Date.now();
        const error = await failure(within(10000, 'the refusal', session.prompt(text('echo lost'))));
        assert.equal(error.code, -32011, error.stack);
        assert.ok(Date.now() - from < 1500 * slow, `${Date.now() - from} ms`);
    }
    const next = await reeve.connect(place);
    assert.deepEqual((await prompt(await next.createSession({ agent: 'mock' }), 'echo again')).said, ['again']);
    await next.dispose();
    await client.dispose();
});

test('192 streams of a workspace: the next is refused, ordinary calls are not', { timeout: 120000 }, async () => {
    const made = await reeve.api('POST', `/w/${place}/v1/processes`, { body: { command: '/bin/sleep', args: ['600'] } });
    const logs = `/w/${place}/v1/processes/${made.body.id}/logs?follow=true`;
    await agentSession(place, 'many');
    await sleep(1500); // what looked after its requests has left
    const open = [];
    const add = async (target) => {
        const st = stream(target);
        const status = await st.status;
        if (status === 200) open.push(st);
        else st.close();
        return status;
    };
    try {
        for (let i = 0; i < 16; i++) assert.equal(await add(`/w/${place}/v1/acp/many`), 200, `stream ${i}`);
        assert.equal(await add(`/w/${place}/v1/acp/many`), 429, 'the seventeenth of one server id');
        for (let i = 16; i < 192; i++) assert.equal(await add(i % 8 > 0 ? logs : `/w/${place}/v1/acp/many-${i}`), 200, `stream ${i}`);
        assert.equal(await add(logs), 429);
        assert.equal(await add(`/w/${place}/v1/acp/one-more`), 429);
        const refused = await reeve.api('GET', logs);
        assert.deepEqual([refused.status, refused.body?.code], [429, 'quota_exceeded'], refused.text);
        const from = Date.now();
        for (let i = 0; i < 20; i++) assert.equal((await reeve.api('GET', `/w/${place}/v1/fs/entries?path=.`, { timeout: 5000 })).status, 200);
        assert.equal((await reeve.inside(place, '/bin/echo', ['fine'])).stdout, 'fine\n');
        assert.equal((await reeve.api('GET', `/w/${other}/v1/health`, { timeout: 5000 })).status, 200);
        assert.ok(Date.now() - from < 5000 * slow);
        const s = stream(`/w/${other}/v1/acp/another-workspace`);
        assert.equal(await s.status, 200, 'another workspace has its own');
        s.close();
        open.pop().close();
        await until('the place is free again', 5000, async () => (await add(logs)) === 200);
    } finally {
        for (const st of open) st.close();
        await reeve.api('POST', `/w/${place}/v1/processes/${made.body.id}/kill`, {});
    }
    await until('all are let go', 10000, async () => (await Promise.all([1, 2, 3].map((i) => add(`/w/${place}/v1/acp/free-${i}`)))).every((x) => x === 200));
    for (const st of open) st.close();
});

// --- a server inside that is not ours

const hostile = 'alice/hostile';

test('a hostile server inside steers neither browser nor front proxy', { timeout: 120000 }, async () => {
    await reeve.workspace(hostile);
    await reeve.put(hostile, 'hostile.mjs', fs.readFileSync(path.join(here, 'hostile.mjs')));
    const placed = await reeve.inside(hostile, '/bin/sh', ['-c', `setsid ${process.execPath} hostile.mjs >hostile.log 2>&1 </dev/null & sleep 0.1`]);
    assert.equal(placed.exitCode, 0, placed.stderr);
    await until('it answers in place of the server', 40000, async () => {
        const got = await reeve.api('GET', `/w/${hostile}/v1/fs/entries?path=.`).catch(() => undefined);
        return got?.headers['x-harmless'] === 'stays';
    });
    const names = ['x-accel-redirect', 'x-accel-buffering', 'x-sendfile', 'set-cookie', 'www-authenticate', 'location', 'refresh', 'alt-svc', 'nel', 'report-to', 'strict-transport-security', 'clear-site-data', 'access-control-allow-origin', 'access-control-allow-credentials', 'service-worker-allowed'];
    for (const target of ['v1/fs/file?path=x', 'v1/desktop/status', 'v1/processes']) {
        const got = await reeve.api('GET', `/w/${hostile}/${target}`);
        assert.equal(got.text, 'ok', `${target}: ${got.status}`);
        for (const name of names) assert.equal(got.headers[name], undefined, `${target}: ${name}`);
        assert.equal(got.headers['x-content-type-options'], 'nosniff');
    }
    const it = await upgrade(`/w/${hostile}/v1/desktop/stream/signaling`);
    await it.answered();
    await sleep(100);
    const head = it.text.slice(0, it.text.indexOf('\r\n\r\n')).toLowerCase();
    assert.match(head, /^http\/1\.1 101 /);
    assert.ok(head.includes('x-pad: aaa'), head);
    it.close();
    for (const name of names) assert.ok(!head.includes(`\n${name}:`), name);
});

test('the head of an upgrade that does not fit is a 502, never half of it', { timeout: 60000 }, async () => {
    for (const [bytes, wanted] of [
        [30000, [101]],
        // about what may come in, it may or may not go out; what goes out is whole
        ...[65450, 65458, 65470, 65500, 65535].map((n) => [n, [101, 502]]),
        [65537, [502]],
        [70000, [502]],
        [200000, [502]],
    ]) {
        await setHostile({ head: bytes });
        const it = await upgrade(`/w/${hostile}/v1/desktop/stream/signaling`);
        await it.answered();
        assert.ok(wanted.includes(it.status()), `${bytes}: ${it.text.slice(0, 300)}`);
        const end = it.text.indexOf('\r\n\r\n');
        const head = it.text.slice(0, end);
        assert.ok(!/set-cookie/i.test(head), `${bytes}: the sandbox wrote the rest of the head`);
        if (it.status() === 101) assert.match(head, /\r\nConnection: Upgrade$/i, `${bytes}: not the whole head`);
        it.close();
    }
    await isAlive();
});

/** Tells the hostile server inside; its own file API is gone, so its home is written where Reeve keeps it. */
async function setHostile(settings) {
    const { id } = (await reeve.api('GET', `/v1/workspaces/${hostile}`)).body;
    const home = homeOf(id);
    fs.writeFileSync(path.join(home, 'hostile.json'), JSON.stringify(settings));
}

function homeOf(id) {
    const find = (folder, depth) => {
        for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
            if (!entry.isDirectory()) continue;
            const at = path.join(folder, entry.name);
            if (fs.existsSync(path.join(at, 'hostile.mjs'))) return at;
            const deeper = depth > 0 ? find(at, depth - 1) : undefined;
            if (deeper) return deeper;
        }
        return undefined;
    };
    const home = find(path.join(reeve.folder, 'data'), 5);
    assert.ok(home, `the home of ${id}`);
    return home;
}

test('a client that leaves in the middle of an export harms nobody', { timeout: 120000 }, async () => {
    const key = (await reeve.inside(place, '/bin/sh', ['-c', 'printf %s "$ANTHROPIC_API_KEY"'])).stdout;
    const time = new Date(Date.now() - 5000).toISOString();
    const rows = async () => {
        const file = await reeve.api('GET', `/v1/periods/${time.slice(0, 7)}/export?format=jsonl`);
        assert.equal(file.status, 200, file.text);
        return file.text.split('\n').filter(Boolean).length;
    };
    const was = await rows();
    for (let batch = 0; batch < 8; batch++) {
        const events = Array.from({ length: 500 }, (_, i) => ({ id: `exported-${batch}-${i}`, key_hash: sha256(key), model: 'model-one', time, tokens: { input: 1, output: 1 } }));
        const told = await reeve.api('POST', '/v1/gateways/main/usage', { key: null, headers: { authorization: `Bearer ${reeve.gatewaySecret}` }, body: { events } });
        assert.deepEqual(told.body, { accepted: 500, duplicates: 0, rejected: [] }, told.text);
    }
    const idle = descriptors();
    for (let i = 0; i < 60; i++) {
        const connection = i % 4 < 2 ? 'keep-alive' : 'close';
        const format = i % 3 ? 'csv' : 'jsonl';
        const it = await raw(`GET /v1/periods/${time.slice(0, 7)}/export?format=${format} HTTP/1.1\r\nHost: x\r\nConnection: ${connection}\r\nAuthorization: Bearer ${reeve.key('acme owner')}\r\n\r\n`);
        if (i % 5 === 0) await it.answered();
        it.socket.pause();
        await sleep(i % 7 * 3);
        if (i % 2) it.socket.resetAndDestroy();
        else it.close();
    }
    await isAlive();
    await until('nothing of them is left', 10000, () => descriptors() <= idle + 3);
    assert.equal(await rows(), was + 4000, 'a whole export');
    await isAlive();
    assert.ok(!/Sanitizer|runtime error/.test(reeve.text), reeve.text);
});

test('SIGTERM in the middle of upgrades and tunnels ends well, and soon', { timeout: 120000 }, async () => {
    await setHostile({ head: 2000, delay: 4000 });
    const tunnels = [];
    for (let i = 0; i < 4; i++) {
        const it = await upgrade(`/w/${hostile}/v1/desktop/stream/signaling`);
        await it.answered();
        assert.equal(it.status(), 101);
        tunnels.push(it);
    }
    const tty = (await reeve.api('POST', `/w/${place}/v1/processes`, { body: { command: '/bin/sh', tty: true, interactive: true } })).body.id;
    const terminal = await upgrade(`/w/${place}/v1/processes/${tty}/terminal/ws`);
    await terminal.answered();
    assert.equal(terminal.status(), 101);
    const waiting = [];
    for (let i = 0; i < 3; i++) waiting.push(await upgrade(`/w/${hostile}/v1/processes/any/terminal/ws`));
    const st = stream(`/w/${place}/v1/acp/at-the-end`);
    assert.equal(await st.status, 200);
    await sleep(500);
    const from = Date.now();
    const end = await reeve.kill('SIGTERM');
    const ms = Date.now() - from;
    assert.equal(end.code, 0);
    assert.ok(ms < 15000, `${ms} ms`);
    for (const it of [...tunnels, terminal, ...waiting]) await within(5000, 'a connection is closed', it.closed);
    for (const it of waiting) assert.notEqual(it.status(), 200, it.text);
    assert.ok(!/Sanitizer|runtime error/.test(reeve.text), reeve.text);
    reeve.isEnding = false;
    await reeve.run();
    await until('it serves again', 20000, async () => (await reeve.api('GET', `/w/${place}/v1/health`)).status === 200);
    await reeve.remove(hostile);
});
