// What a process in a sandbox can reach (the door, and nothing else), and what somebody else's key, or a lesser role,
// can do (nothing of it).
import assert from 'node:assert/strict';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { needNodeInside, Reeve, root, target, until } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
let reeve;
let listener;

async function probe(where, ...tries) {
    const ran = await reeve.inside(where, process.execPath, ['/home/agent/probe.mjs', ...tries.map((t) => JSON.stringify(t))], { timeoutMs: 60000 });
    assert.equal(ran.exitCode, 0, ran.stderr);
    return JSON.parse(ran.stdout);
}

before(async () => {
    needNodeInside();
    reeve = await Reeve.start({ tag: 'isolation' });
    listener = net.createServer((s) => s.on('error', () => {}).end('the host')).listen(0, '127.0.0.1');
    await new Promise((resolve) => listener.on('listening', resolve));
    listener.connections = 0;
    listener.on('connection', () => listener.connections++);
    for (const where of ['alice/dev', 'bob/dev']) {
        await reeve.workspace(where);
        await reeve.put(where, 'probe.mjs', fs.readFileSync(path.join(here, 'probe.mjs')));
    }
});
context(() => reeve?.tail(15));
after(async () => {
    listener?.close();
    await reeve?.finish();
});

test('nothing outside can be connected to, and that is known at once', async () => {
    const port = Number(new URL(reeve.url).port);
    const targets = [
        ['tcp', '127.0.0.1', listener.address().port], // the host's loopback
        ['tcp', 'localhost', listener.address().port],
        ['tcp', '::1', listener.address().port],
        ['tcp', '127.0.0.1', port], // the controller's API
        ['tcp', '169.254.169.254', 80], // a cloud's metadata
        ['tcp', 'fd00:ec2::254', 80],
        ['tcp', '203.0.113.1', 80], // TEST-NET-3
        ['tcp', '1.1.1.1', 443],
        ['tcp', '2001:db8::1', 443],
        ['tcp', '10.0.0.1', 22],
        ['udp', '1.1.1.1', 53],
        ['udp', '203.0.113.1', 53],
        ['dns', 'example.org'],
    ];
    // every address that this machine has
    for (const list of Object.values(os.networkInterfaces()))
        for (const it of list) if (!it.address.startsWith('fe80')) targets.push(['tcp', it.address, port], ['tcp', it.address, listener.address().port]);
    const got = await probe('alice/dev', ...targets);
    for (const [i, g] of got.entries()) {
        assert.match(g.result, /^error (ECONNREFUSED|ENETUNREACH|EADDRNOTAVAIL|EHOSTUNREACH|ENOTFOUND|EAI_AGAIN)$/, `${targets[i]}: ${g.result}`);
        if (g.ms !== undefined) assert.ok(g.ms < 3000, `${targets[i]}: ${g.ms} ms`);
    }
    assert.equal(listener.connections, 0);
});

test('only loopback is there, and only the door and its own server listen', async () => {
    const [devices, tcp, tcp6] = await probe('alice/dev', ['text', '/proc/net/dev'], ['text', '/proc/net/tcp'], ['text', '/proc/net/tcp6']);
    const names = devices.text
        .split('\n')
        .slice(2)
        .filter(Boolean)
        .map((line) => line.trim().split(':')[0]);
    assert.deepEqual(names, ['lo']);
    const listening = `${tcp.text}\n${tcp6.text ?? ''}`
        .split('\n')
        .map((line) => line.trim().split(/\s+/))
        .filter((cells) => cells[3] === '0A')
        .map((cells) => parseInt(cells[1].split(':').at(-1), 16))
        .sort((a, b) => a - b);
    assert.deepEqual(listening, [2468, 8700]);
});

test("one's own processes can be met, bob's cannot", async () => {
    const script = 'require("net").createServer(s=>s.end("bob")).listen(7777,"127.0.0.1")';
    const started = await reeve.api('POST', '/w/bob/dev/v1/processes', { body: { command: process.execPath, args: ['-e', script] } });
    assert.equal(started.status, 200, started.text);
    await until('it listens', 10000, async () => (await probe('bob/dev', ['tcp', '127.0.0.1', 7777]))[0].result === 'ok');
    const [met] = await probe('alice/dev', ['tcp', '127.0.0.1', 7777]);
    assert.equal(met.result, 'error ECONNREFUSED');
    await reeve.put('bob/dev', 'secret-of-bob', 'x');
    const tell = await reeve.inside('alice/dev', '/bin/sh', ['-c', 'find / -xdev -name "secret-of-bob*" 2>/dev/null; ls /home']);
    assert.equal(tell.stdout.trim(), 'agent');
    const processes = await reeve.inside('alice/dev', '/bin/sh', ['-c', 'cat /proc/[0-9]*/cmdline | tr "\\0" " "']);
    assert.ok(!processes.stdout.includes('7777'), processes.stdout);
});

test('the door takes model calls only', async () => {
    const asAlice = { authorization: `Bearer ${reeve.key('acme owner')}` };
    const tries = [
        ['http', 'GET', 8700, '/v1/workspaces', asAlice],
        ['http', 'GET', 8700, '/v1/workspaces/bob/dev', asAlice],
        ['http', 'GET', 8700, '/w/bob/dev/v1/health', asAlice],
        ['http', 'GET', 8700, '/metrics', asAlice],
        ['http', 'POST', 8700, '/v1/reload', { authorization: `Bearer ${reeve.key('fleet owner')}` }],
        ['http', 'POST', 8700, '/v1/messages', {}],
        ['http', 'GET', 8700, `http://127.0.0.1:${listener.address().port}/`, {}],
        ['http', 'CONNECT', 8700, `127.0.0.1:${listener.address().port}`, {}],
        ['http', 'GET', 8700, '/', {}],
    ];
    const got = await probe('alice/dev', ...tries);
    for (const [i, g] of got.slice(0, -1).entries()) assert.match(g.result, /^(ok (400|401|404|405|501|503)|error)/, `${tries[i].slice(0, 4)}: ${g.result} ${g.text}`);
    assert.equal(got.at(-1).result, 'ok 200', 'it answers');
    assert.equal(listener.connections, 0);
});

test("the host's files are not there", async () => {
    const paths = ['/etc/shadow', '/root', '/etc/ssl/private', '/var/run/docker.sock', root, reeve.folder, path.join(reeve.folder, 'data'), reeve.file];
    const got = await probe('alice/dev', ...paths.map((p) => ['list', p]), ...paths.map((p) => ['read', p]));
    for (const [i, g] of got.entries()) assert.match(g.result, /^error (ENOENT|EACCES|ENOTDIR)$/, `${paths[i % paths.length]}: ${g.result}`);
    const [who, tree] = await probe('alice/dev', ['who'], ['list', '/']);
    assert.notEqual(who.uid, 0);
    const foreign = ['work', 'boot', 'lost+found', target.provider === 'local' ? 'root' : 'work']; // an image has a /root of its own
    assert.deepEqual(tree.names.filter((name) => foreign.includes(name)), []);
    const [var_] = await probe('alice/dev', ['list', '/var/lib/dpkg']);
    assert.match(var_.result, /^error/, 'the machine has it, nobody inside');
    for (const where of ['/usr/x', '/etc/x', '/x', '/opt/reeve/x', '/proc/sys/kernel/core_pattern', '/dev/x']) {
        const [w] = await probe('alice/dev', ['write', where]);
        assert.match(w.result, /^error (EROFS|EACCES|EPERM|ENOENT)$/, `${where}: ${w.result}`);
    }
    const [home, tmp] = await probe('alice/dev', ['write', '/home/agent/x'], ['write', '/tmp/x']);
    assert.deepEqual([home.result, tmp.result], ['ok', 'ok']);
});

test('no way to more: setuid programs, namespaces, devices, other limits', async () => {
    const [status] = await probe('alice/dev', ['text', '/proc/self/status']);
    const field = (name) => new RegExp(`^${name}:\\s*(\\S+)`, 'm').exec(status.text)[1];
    assert.equal(field('NoNewPrivs'), '1');
    for (const set of ['CapEff', 'CapPrm', 'CapInh', 'CapBnd', 'CapAmb']) assert.equal(BigInt(`0x${field(set)}`), 0n, set);
    const mount = await reeve.inside('alice/dev', '/bin/sh', ['-c', 'mount -t tmpfs x /tmp 2>&1; mknod /tmp/null c 1 3 2>&1; echo done']);
    assert.match(mount.stdout, /(only root|permission denied|not permitted|must be superuser|failed)/i);
    const [null_] = await probe('alice/dev', ['read', '/tmp/null']);
    assert.match(null_.result, /^error/);
});

test("the folder with the control socket cannot be written, and a stranger's connection gains nothing", async () => {
    const [listed] = await probe('alice/dev', ['list', '/run/reeve']);
    assert.deepEqual(listed.names, ['control']);
    const got = await probe('alice/dev', ['write', '/run/reeve/x'], ['remove', '/run/reeve/control'], ['rename', '/run/reeve/control', '/run/reeve/other']);
    for (const g of got) assert.match(g.result, /^error (EROFS|EACCES|EPERM)$/, g.result);
    const strange = await probe('alice/dev', ...Array.from({ length: 20 }, () => ['unix', '/run/reeve/control']));
    for (const g of strange) {
        assert.equal(g.got, '', 'not a byte');
        assert.match(g.result, /^(closed|error (ECONNRESET|EPIPE|EACCES|ECONNREFUSED))$/, g.result);
    }
    // the real one still is the real one
    assert.equal((await reeve.api('GET', '/w/alice/dev/v1/health')).status, 200);
    assert.equal((await probe('alice/dev', ['http', 'GET', 8700, '/', {}]))[0].result, 'ok 200');
    await reeve.restart('SIGKILL');
    const again = await reeve.api('GET', '/w/alice/dev/v1/fs/entries?path=.'); // it waits until the workspace was found again
    assert.equal(again.status, 200, again.text);
    assert.equal((await probe('alice/dev', ['http', 'GET', 8700, '/', {}]))[0].result, 'ok 200');
});

test('the first process is not to be looked into', async () => {
    const [env, mem, maps, fds, term] = await probe(
        'alice/dev',
        ['read', '/proc/1/environ'],
        ['read', '/proc/1/mem'],
        ['read', '/proc/1/maps'],
        ['list', '/proc/1/fd'],
        ['kill', 1, 'SIGKILL'],
    );
    for (const g of [env, mem, maps, fds]) assert.match(g.result, /^error (EACCES|EPERM)$/, g.result);
    assert.ok(['ok', 'error EPERM'].includes(term.result));
    assert.equal((await reeve.api('GET', '/w/alice/dev/v1/health')).status, 200);
    const [one] = await probe('alice/dev', ['text', '/proc/1/cmdline']);
    assert.ok(!/rvk_|token/i.test(one.text), one.text);
});

test("alice may end her own server; it comes back and nobody else's is touched", { timeout: 90000 }, async () => {
    // its answer is lost with it
    await reeve.api('POST', '/w/alice/dev/v1/processes/run', { body: { command: '/bin/sh', args: ['-c', 'kill -9 $PPID'] } }).catch(() => {});
    await until('it is back', 30000, async () => (await reeve.api('GET', '/w/alice/dev/v1/health').catch(() => ({}))).status === 200);
    assert.equal((await reeve.api('GET', '/w/bob/dev/v1/health')).status, 200);
    assert.equal((await reeve.workspace('alice/dev')).state, 'ready');
});

// --- others' keys -----------------------------------------------------------------------------------------------------

const asks = (where) => [
    ['GET', `/v1/workspaces/${where}`],
    ['GET', `/v1/workspaces/${where}/usage`],
    ['GET', `/v1/workspaces/${where}/events`],
    ['POST', `/v1/workspaces/${where}/suspend`],
    ['POST', `/v1/workspaces/${where}/resume`],
    ['POST', `/v1/workspaces/${where}/restart`],
    ['POST', `/v1/workspaces/${where}/extend`],
    ['DELETE', `/v1/workspaces/${where}`],
    ['GET', `/w/${where}/v1/health`],
    ['GET', `/w/${where}/v1/acp`],
    ['GET', `/w/${where}/v1/acp/some-id`],
    ['DELETE', `/w/${where}/v1/acp/some-id`],
    ['GET', `/w/${where}/v1/agents`],
    ['GET', `/w/${where}/v1/fs/entries?path=.`],
    ['GET', `/w/${where}/v1/fs/file?path=probe.mjs`],
    ['PUT', `/w/${where}/v1/fs/file?path=x`],
    ['POST', `/w/${where}/v1/processes/run`],
    ['GET', `/w/${where}/v1/processes`],
];

for (const [whose, key] of [
    ['another tenant', 'globex owner'],
    ['another namespace', 'acme bobs'],
])
    test(`a key of ${whose} gets 404 for everything of alice's`, async () => {
        for (const [method, target] of asks('alice/dev')) {
            const got = await reeve.api(method, target, { key, body: method === 'GET' || method === 'DELETE' ? undefined : {} });
            assert.equal(got.status, 404, `${method} ${target}: ${got.status} ${got.text}`);
            assert.equal(got.body.code, 'not_found');
        }
        // the same answer as for what does not exist
        const real = await reeve.api('GET', '/v1/workspaces/alice/dev', { key });
        const none = await reeve.api('GET', '/v1/workspaces/alice/nothing', { key });
        assert.deepEqual({ ...real.body, request_id: 0 }, { ...none.body, request_id: 0 });
        const posted = await reeve.api('POST', '/w/alice/dev/v1/acp/some-id?agent=mock', { key, body: { jsonrpc: '2.0', id: 1, method: 'initialize', params: {} } });
        assert.equal(posted.status, 200);
        assert.equal(posted.body.error.data.code, 'not_found', posted.text);
        const listed = await reeve.api('GET', '/v1/workspaces', { key });
        assert.ok(!listed.body.items.some((w) => w.namespace === 'alice'), listed.text);
        const socket = await upgrade('/w/alice/dev/v1/processes/proc_1/terminal/ws', reeve.key(key));
        assert.equal(socket.status, 404);
        const { state } = (await reeve.api('GET', '/v1/workspaces/alice/dev')).body;
        assert.equal(state, 'ready');
    });

test('a key of one namespace makes nothing in another, and a fleet key says for whom', async () => {
    assert.equal((await reeve.api('PUT', '/v1/workspaces/alice/theirs', { key: 'acme bobs' })).status, 404);
    const inBody = await reeve.api('POST', '/v1/workspaces/find-or-create', { key: 'acme bobs', body: { namespace: 'alice', name: 'theirs' } });
    assert.equal(inBody.status, 404, inBody.text);
    assert.equal((await reeve.api('GET', '/v1/workspaces/alice/dev', { key: 'fleet owner' })).status, 400);
    const whom = await reeve.api('GET', '/v1/workspaces/alice/dev', { key: 'fleet owner', headers: { 'reeve-tenant': 'acme' } });
    assert.equal(whom.status, 200);
    assert.equal((await reeve.api('GET', '/v1/whoami', { headers: { 'reeve-tenant': 'globex' } })).status, 404);
    for (const [method, target] of [
        ['POST', '/v1/reload'],
        ['GET', '/v1/providers'],
        ['GET', '/v1/tenants'],
        ['GET', '/metrics'],
    ])
        assert.equal((await reeve.api(method, target)).status, 403, target);
});

/** The answer to an attempt at a WebSocket. */
function upgrade(target, key, inQuery = false) {
    return new Promise((resolve, reject) => {
        const rq = http.request(`${reeve.url}${target}${inQuery ? `?access_token=${key}` : ''}`, {
            headers: {
                connection: 'Upgrade',
                upgrade: 'websocket',
                'sec-websocket-version': '13',
                'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
                ...(inQuery ? {} : { authorization: `Bearer ${key}` }),
            },
        });
        rq.on('response', (answer) => resolve({ status: answer.statusCode }) || answer.resume());
        rq.on('upgrade', (answer, socket) => resolve({ status: answer.statusCode }) || socket.destroy());
        rq.on('error', reject);
        rq.end();
    });
}

test('a viewer sees, and does nothing', async () => {
    const key = 'acme viewer';
    const w = '/w/alice/dev';
    const started = await reeve.api('POST', `${w}/v1/processes`, { body: { command: '/bin/sh', args: ['-c', 'echo seen; sleep 60'], tty: true, interactive: true } });
    const id = started.body.id;
    for (const target of [
        '/v1/workspaces',
        '/v1/workspaces/alice/dev',
        '/v1/workspaces/alice/dev/usage',
        '/v1/usage',
        '/v1/budgets',
        '/v1/templates',
        '/v1/whoami',
        `${w}/v1/health`,
        `${w}/v1/agents`,
        `${w}/v1/acp`,
        `${w}/v1/fs/entries?path=.`,
        `${w}/v1/fs/file?path=probe.mjs`,
        `${w}/v1/fs/file?path=%2Fhome%2Fagent%2Fprobe.mjs`,
        `${w}/v1/fs/stat?path=probe.mjs`,
        `${w}/v1/processes`,
        `${w}/v1/processes/${id}`,
        `${w}/v1/processes/${id}/logs`,
    ]) {
        const got = await reeve.api('GET', target, { key });
        assert.equal(got.status, 200, `${target}: ${got.text.slice(0, 300)}`);
    }
    for (const [method, target, body] of [
        ['PUT', '/v1/workspaces/alice/more'],
        ['POST', '/v1/workspaces/find-or-create', { namespace: 'alice', name: 'more' }],
        ['DELETE', '/v1/workspaces/alice/dev'],
        ['POST', '/v1/workspaces/alice/dev/suspend'],
        ['POST', '/v1/workspaces/alice/dev/resume'],
        ['POST', '/v1/workspaces/alice/dev/restart'],
        ['POST', '/v1/workspaces/alice/dev/extend'],
        ['GET', '/v1/keys'],
        ['POST', '/v1/keys', { name: 'mine', role: 'owner' }],
        ['GET', '/v1/suspense'],
        ['GET', '/v1/audit'],
        ['GET', '/v1/periods/2026-01/export'],
        ['POST', '/v1/reload'],
        ['PUT', `${w}/v1/fs/file?path=x`, {}],
        ['POST', `${w}/v1/fs/mkdir?path=x`],
        ['POST', `${w}/v1/fs/move`, { from: 'probe.mjs', to: 'x' }],
        ['DELETE', `${w}/v1/fs/entry?path=probe.mjs`],
        ['POST', `${w}/v1/fs/upload-batch?path=x`],
        ['POST', `${w}/v1/processes`, { command: '/bin/true' }],
        ['POST', `${w}/v1/processes/run`, { command: '/bin/true' }],
        ['POST', `${w}/v1/processes/${id}/input`, { data: 'eA==' }],
        ['POST', `${w}/v1/processes/${id}/stop`],
        ['POST', `${w}/v1/processes/${id}/kill`],
        ['DELETE', `${w}/v1/processes/${id}`],
        ['GET', `${w}/v1/processes/config`],
        ['POST', `${w}/v1/processes/config`, {}],
        ['POST', `${w}/v1/agents/mock/install`, {}],
        ['GET', `${w}/v1/agents?config=true`],
        ['GET', `${w}/v1/acp/some-id`],
        ['DELETE', `${w}/v1/acp/some-id`],
        ['GET', `${w}/v1/config/mcp?directory=.&mcpName=x`],
        // nothing but files under the home
        ['GET', `${w}/v1/fs/file?path=/proc/self/environ`],
        ['GET', `${w}/v1/fs/file?path=%2Fproc%2F1%2Fenviron`],
        ['GET', `${w}/v1/fs/file?path=/etc/passwd`],
        ['GET', `${w}/v1/fs/file?path=/home/agent/../../proc/self/environ`],
        ['GET', `${w}/v1/fs/file?path=/home/agent/%2e%2e/%2e%2e/proc/self/environ`],
        ['GET', `${w}/v1/fs/file?path=../../proc/self/environ`],
        ['GET', `${w}/v1/fs/file?path=/home/agents/x`],
        ['GET', `${w}/v1/fs/file?path=probe.mjs&path=/proc/self/environ`],
        ['GET', `${w}/v1/fs/file?path=/proc/self/environ&path=probe.mjs`],
        ['GET', `${w}/v1/fs/file?path=probe.mjs&p%61th=/proc/self/environ`],
        ['GET', `${w}/v1/fs/entries?path=/proc`],
        ['GET', `${w}/v1/fs/entries`],
        ['GET', `${w}/v1/fs/stat?path=/proc/self/environ`],
    ]) {
        const got = await reeve.api(method, target, { key, body });
        assert.equal(got.status, 403, `${method} ${target}: ${got.status} ${got.text.slice(0, 300)}`);
        assert.equal(got.body.code, 'forbidden');
    }
    for (const inQuery of [false, true]) {
        assert.equal((await upgrade(`${w}/v1/processes/${id}/terminal/ws`, reeve.key(key), inQuery)).status, 403);
        assert.equal((await upgrade(`${w}/v1/processes/${id}/terminal/ws`, reeve.key('acme member'), inQuery)).status, 101);
    }
    for (const message of [
        { jsonrpc: '2.0', id: 5, method: 'initialize', params: {} },
        { jsonrpc: '2.0', id: 'text', method: 'session/prompt', params: { sessionId: 'x', prompt: [] } },
    ]) {
        const got = await reeve.api('POST', `${w}/v1/acp/some-id?agent=mock`, { key, body: message });
        assert.equal(got.status, 200, got.text);
        assert.equal(got.body.id, message.id);
        assert.equal(got.body.error.data.code, 'forbidden', got.text);
    }
    const notified = await reeve.api('POST', `${w}/v1/acp/some-id`, { key, body: { jsonrpc: '2.0', method: 'session/cancel', params: {} } });
    assert.equal(notified.status, 202);
    await reeve.api('POST', `${w}/v1/processes/${id}/kill`, {});
});

test('a member acts, and manages no keys, installs nothing, raises no limits', async () => {
    const key = 'acme member';
    const w = '/w/alice/dev';
    assert.equal((await reeve.inside('alice/dev', '/bin/true', [], { key })).exitCode, 0);
    for (const [method, target, body] of [
        ['POST', '/v1/keys', { name: 'mine', role: 'owner' }],
        ['GET', '/v1/keys'],
        ['GET', '/v1/suspense'],
        ['GET', '/v1/periods/2026-01/export'],
        ['POST', `${w}/v1/processes/config`, {}],
        ['POST', `${w}/v1/agents/mock/install`, {}],
    ]) {
        const got = await reeve.api(method, target, { key, body });
        assert.equal(got.status, 403, `${method} ${target}: ${got.status} ${got.text}`);
    }
});

test('what is not in the proxy table is refused, however it is spelt', async () => {
    const w = '/w/alice/dev';
    for (const target of [
        `${w}/`,
        `${w}/ui/`,
        `${w}/ui/assets/index.js`,
        `${w}/opencode/event`,
        `${w}/v1`,
        `${w}/v1/`,
        `${w}/v1/nothing`,
        `${w}//v1/health`,
        `${w}/v1//health`,
        `${w}/v1/./health`,
        `${w}/v1/fs/../health`,
        `${w}/v1/%66s/entries`,
        `${w}/v1/fs%2Fentries`,
        `${w}/v1/fs/entries/`,
        `/w/alice`,
        `/w/alice/`,
        `/w//dev/v1/health`,
        `/w/alice/../bob/dev/v1/health`,
        `/w/alice%2Fdev/v1/health`,
        `/w/ALICE/dev/v1/health`,
    ]) {
        const got = await raw('GET', target);
        assert.ok([400, 404].includes(got), `${target}: ${got}`);
    }
    for (const method of ['PATCH', 'OPTIONS', 'TRACE', 'PROPFIND']) assert.ok([404, 405, 501, 400].includes(await raw(method, `${w}/v1/health`)), method);
});

/** A request whose target nobody tidies up; gives the status. */
function raw(method, target) {
    return new Promise((resolve, reject) => {
        const { port } = new URL(reeve.url);
        const s = net.connect(Number(port), '127.0.0.1', () =>
            s.write(`${method} ${target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${reeve.key('acme owner')}\r\nConnection: close\r\n\r\n`),
        );
        let text = '';
        s.on('data', (d) => (text += d));
        s.on('error', reject);
        s.on('close', () => resolve(Number(/^HTTP\/1.1 (\d+)/.exec(text)?.[1])));
        setTimeout(() => s.destroy(), 10000).unref();
    });
}

test('credentials: only Bearer, in the query for WebSockets only', async () => {
    const key = reeve.key('acme owner');
    for (const [target, headers] of [
        [`/w/alice/dev/v1/health?access_token=${key}`, {}],
        [`/v1/whoami?access_token=${key}`, {}],
        ['/v1/whoami', { 'x-api-key': key }],
        ['/v1/whoami', { cookie: `key=${key}` }],
        ['/v1/whoami', { authorization: `Basic ${Buffer.from(`x:${key}`).toString('base64')}` }],
        ['/v1/whoami', { authorization: `Bearer ${key.slice(0, -1)}` }],
        ['/v1/whoami', { authorization: 'Bearer' }],
    ]) {
        const got = await reeve.api('GET', target, { key: null, headers });
        assert.equal(got.status, 401, `${target} ${JSON.stringify(headers)}: ${got.text}`);
        assert.match(got.headers['www-authenticate'] ?? '', /Bearer/);
    }
});

test('answers from inside bring no cookies and no CORS', async () => {
    const got = await reeve.api('GET', '/w/alice/dev/v1/fs/file?path=probe.mjs', { headers: { origin: 'https://evil.example' } });
    assert.equal(got.headers['x-content-type-options'], 'nosniff');
    for (const name of ['access-control-allow-origin', 'set-cookie', 'service-worker-allowed', 'clear-site-data']) assert.equal(got.headers[name], undefined, name);
    assert.ok(got.headers['x-request-id']);
});

test('a revoked key is refused at once', async () => {
    const made = await reeve.api('POST', '/v1/keys', { body: { name: 'short', role: 'member', namespaces: ['alice'] } });
    assert.equal(made.status, 201, made.text);
    const { key, id } = made.body;
    assert.equal((await reeve.api('GET', '/w/alice/dev/v1/health', { key })).status, 200);
    assert.equal((await reeve.api('GET', '/w/bob/dev/v1/health', { key })).status, 404);
    assert.equal((await reeve.api('DELETE', `/v1/keys/${id}`)).status, 204);
    assert.equal((await reeve.api('GET', '/w/alice/dev/v1/health', { key })).status, 401);
    const text = JSON.stringify(reeve.log) + reeve.text;
    for (const secret of [key, reeve.key('acme owner'), reeve.gatewaySecret]) assert.ok(!text.includes(secret), 'no secret is logged');
});
