// The unmodified client library against a workspace, through the proxy.
import assert from 'node:assert/strict';
import { clientLibrary, failure, needNodeInside, prompt, Reeve, sleep, until, within } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

let reeve;
let sdk;
const place = 'alice/dev';
const text = (value) => [{ type: 'text', text: value }];

before(async () => {
    needNodeInside();
    await clientLibrary();
    reeve = await Reeve.start({ tag: 'sdk' });
    await reeve.workspace(place);
    await reeve.agentInto(place);
    sdk = await reeve.connect(place);
});
context(() => reeve?.tail(15));
after(async () => {
    await sdk?.dispose();
    await reeve?.finish();
});

test('health and agents', async () => {
    assert.deepEqual(await sdk.getHealth(), { status: 'ok' });
    const { agents } = await sdk.listAgents();
    assert.ok(agents.some((a) => a.id === 'mock'));
    assert.equal((await sdk.getAgent('mock')).id, 'mock');
});

test('a trailing slash in the base URL', async () => {
    const other = await reeve.connect(`${place}/`);
    assert.deepEqual(await other.getHealth(), { status: 'ok' });
    await other.dispose();
});

test('a session and a prompt', async () => {
    const session = await sdk.createSession({ agent: 'mock' });
    assert.match(session.agentSessionId, /^mock-/);
    const got = await prompt(session, 'echo héllo – 世界 \u{1f980} "quoted" \\ back');
    assert.deepEqual(got, { stopReason: 'end_turn', said: ['héllo – 世界 \u{1f980} "quoted" \\ back'] });
});

test('a permission round trip, allowed and rejected', async () => {
    const session = await sdk.createSession({ agent: 'mock' });
    for (const [reply, option] of [
        ['once', 'yes'],
        ['reject', 'no'],
    ]) {
        const asked = [];
        const off = session.onPermissionRequest((p) => {
            asked.push(p.toolCall.title);
            session.respondPermission(p.id, reply);
        });
        const got = await prompt(session, 'permission');
        off();
        assert.deepEqual(asked, ['write a file']);
        assert.deepEqual(JSON.parse(got.said[0]), { outcome: 'selected', optionId: option });
    }
});

test('a prompt is cancelled', async () => {
    const session = await sdk.createSession({ agent: 'mock' });
    const ending = session.prompt(text('sleep 60000'));
    await sleep(300);
    await sdk.destroySession(session.id);
    assert.equal((await within(5000, 'the cancelled prompt ends', ending)).stopReason, 'cancelled');
});

test('1000 updates, none lost, in order', async () => {
    const session = await sdk.createSession({ agent: 'mock' });
    const got = await prompt(session, 'stream 1000', { count: 1000 });
    assert.deepEqual(
        got.said,
        Array.from({ length: 1000 }, (_, i) => String(i)),
    );
});

test('twenty prompts one after the other, four sessions at a time', async () => {
    const sessions = await Promise.all([0, 1, 2, 3].map(() => sdk.createSession({ agent: 'mock' })));
    await Promise.all(
        sessions.map(async (session, s) => {
            for (let i = 0; i < 20; i++) assert.deepEqual((await prompt(session, `echo ${s}/${i}`)).said, [`${s}/${i}`]);
        }),
    );
});

test('files: binary content and odd names', async () => {
    const bytes = new Uint8Array(70000).map((_, i) => (i * 31 + (i >> 8)) & 255);
    const names = ['plain.bin', 'a b.txt', 'a+b%25&c=d.txt', '100%.txt', 'ünïcödé 世界 \u{1f980}.txt', "quote'\"$(x).txt", '#?;.txt'];
    await sdk.mkdirFs({ path: 'odd names' });
    for (const name of names) {
        const file = `odd names/${name}`;
        const written = await sdk.writeFsFile({ path: file }, bytes);
        assert.equal(written.bytesWritten, bytes.length);
        assert.deepEqual(Buffer.from(await sdk.readFsFile({ path: file })), Buffer.from(bytes), name);
        assert.equal((await sdk.statFs({ path: file })).size, bytes.length);
    }
    const entries = await sdk.listFsEntries({ path: 'odd names' });
    assert.deepEqual(entries.map((e) => e.name).sort(), [...names].sort());
    await sdk.moveFs({ from: 'odd names/a b.txt', to: 'odd names/c d.txt' });
    assert.deepEqual(Buffer.from(await sdk.readFsFile({ path: 'odd names/c d.txt' })), Buffer.from(bytes));
    await sdk.deleteFsEntry({ path: 'odd names', recursive: true });
    assert.equal((await failure(sdk.readFsFile({ path: 'odd names/plain.bin' }))).status, 400); // the server's own word
    await sdk.writeFsFile({ path: 'empty' }, new Uint8Array(0));
    assert.equal((await sdk.readFsFile({ path: 'empty' })).length, 0);
});

test('an upload over 2 MiB is 413, and the next call works', async () => {
    for (let round = 0; round < 3; round++) {
        const error = await failure(sdk.writeFsFile({ path: 'big' }, new Uint8Array(3 << 20)));
        assert.equal(error.status, 413);
        assert.deepEqual(await sdk.getHealth(), { status: 'ok' });
    }
    // a body that does not say its length
    const chunked = await reeve.api('PUT', `/w/${place}/v1/fs/file?path=big`, {
        raw: Buffer.alloc(3 << 20),
        headers: { 'transfer-encoding': 'chunked', 'content-type': 'application/octet-stream' },
    });
    assert.equal(chunked.status, 413);
    const most = new Uint8Array((2 << 20) - 1024).fill(7);
    await sdk.writeFsFile({ path: 'big' }, most);
    assert.equal((await sdk.readFsFile({ path: 'big' })).length, most.length);
});

test('a program is run', async () => {
    const ran = await sdk.runProcess({ command: '/bin/sh', args: ['-c', 'cat; echo out; echo err >&2; pwd; exit 3'], timeoutMs: 10000 });
    assert.equal(ran.exitCode, 3);
    assert.equal(ran.stdout, 'out\n/home/agent\n');
    assert.equal(ran.stderr, 'err\n');
    const error = await failure(sdk.runProcess({ command: '/no/such/program' }));
    assert.equal(error.status, 502); // the server's own word
});

test('logs are followed', async () => {
    const script = 'i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done; sleep 0.3; echo last';
    const started = await sdk.createProcess({ command: '/bin/sh', args: ['-c', script] });
    let out = '';
    const following = await sdk.followProcessLogs(started.id, (entry) => {
        if (entry.stream === 'stdout') out += Buffer.from(entry.data, 'base64').toString();
    });
    await until('the last line', 10000, () => out.endsWith('last\n'));
    following.close();
    assert.equal(out, `${Array.from({ length: 300 }, (_, i) => `line ${i}\n`).join('')}last\n`);
    const again = await sdk.getProcessLogs(started.id);
    assert.ok(again.entries.length > 0);
    await until('its end', 5000, async () => (await sdk.getProcess(started.id)).status === 'exited');
    await sdk.deleteProcess(started.id);
});

test('a process gets input and is stopped', async () => {
    const started = await sdk.createProcess({ command: '/bin/cat', interactive: true });
    await sdk.sendProcessInput(started.id, { data: Buffer.from('to you\n').toString('base64') });
    await until('the echo', 5000, async () =>
        (await sdk.getProcessLogs(started.id)).entries.some((e) => Buffer.from(e.data, 'base64').toString().includes('to you')),
    );
    const stopped = await sdk.stopProcess(started.id, { waitMs: 3000 });
    assert.equal(stopped.id, started.id);
    await until('its end', 5000, async () => (await sdk.getProcess(started.id)).status === 'exited');
    await sdk.deleteProcess(started.id);
});

test('a terminal over a WebSocket', async () => {
    const { WebSocket } = reeve.library;
    const started = await sdk.createProcess({ command: '/bin/sh', tty: true, interactive: true });
    const terminal = sdk.connectProcessTerminal(started.id, { WebSocket });
    let out = '';
    let exited;
    const errors = [];
    terminal.onData((data) => (out += Buffer.from(data).toString()));
    terminal.onExit((status) => (exited = status));
    terminal.onError((e) => errors.push(e));
    await within(10000, 'the terminal is ready', new Promise((resolve) => terminal.onReady(resolve)));
    terminal.resize({ cols: 101, rows: 33 });
    terminal.sendInput('stty size; echo $((6*7))\n');
    await until('the output', 5000, () => /33 101\r\n42\r\n/.test(out));
    terminal.sendInput('i=0; while [ $i -lt 20000 ]; do echo row $i; i=$((i+1)); done; echo do""ne\n');
    await until('20000 rows', 30000, () => out.includes('done\r\n'));
    for (let i = 0; i < 20000; i += 371) assert.ok(out.includes(`row ${i}\r\n`), `row ${i}`);
    terminal.sendInput('exit 5\n');
    await within(10000, 'the terminal closes', terminal.closed);
    assert.equal(exited?.exitCode, 5, JSON.stringify(errors));
});

test('two clients of one workspace at once', async () => {
    const [one, two] = await Promise.all([reeve.connect(place), reeve.connect(place)]);
    const sessions = await Promise.all([one.createSession({ agent: 'mock' }), two.createSession({ agent: 'mock' })]);
    const got = await Promise.all(sessions.map((s) => prompt(s, 'stream 300', { count: 300 })));
    for (const it of got) assert.deepEqual(it.said, Array.from({ length: 300 }, (_, i) => String(i)));
    await Promise.all([one.dispose(), two.dispose()]);
});

test('what a client leaves is ended: no agent of it goes on', async () => {
    const other = await reeve.connect(place);
    const session = await other.createSession({ agent: 'mock' });
    const pid = Number((await prompt(session, 'pid')).said[0]);
    assert.equal((await reeve.inside(place, '/bin/kill', ['-0', String(pid)])).exitCode, 0);
    await other.dispose();
    await until('the agent ends', 10000, async () => (await reeve.inside(place, '/bin/kill', ['-0', String(pid)])).exitCode !== 0);
});

test('the agent dies in a prompt: it fails at once, and a new session works', async () => {
    const other = await reeve.connect(place);
    const session = await other.createSession({ agent: 'mock' });
    const from = Date.now();
    const error = await failure(within(10000, 'the prompt fails', session.prompt(text('die 9'))));
    assert.equal(typeof error.code, 'number', `a JSON-RPC error: ${error.stack}`);
    assert.ok(Date.now() - from < 5000, 'at once');
    await other.dispose();
    const next = await reeve.connect(place);
    assert.deepEqual((await prompt(await next.createSession({ agent: 'mock' }), 'echo again')).said, ['again']);
    await next.dispose();
    assert.deepEqual((await prompt(await sdk.createSession({ agent: 'mock' }), 'echo undisturbed')).said, ['undisturbed']);
});

for (const signal of ['SIGTERM', 'SIGKILL'])
    test(`Reeve is restarted (${signal}) in a session, and the same client goes on`, { timeout: 120000 }, async () => {
        const one = await sdk.createSession({ agent: 'mock' });
        const two = await sdk.createSession({ agent: 'mock' });
        assert.deepEqual((await prompt(one, 'echo before')).said, ['before']);
        const pid = (await prompt(one, 'pid')).said[0];
        const inFlight = one.prompt(text('sleep 1500'));
        await sleep(300);
        await reeve.restart(signal);
        assert.deepEqual((await prompt(two, 'echo after')).said, ['after']);
        assert.equal((await within(20000, 'the prompt that was under way ends', inFlight)).stopReason, 'end_turn');
        assert.equal((await prompt(one, 'pid')).said[0], pid, 'the same agent: its sandbox lived on');
        assert.deepEqual(
            (await prompt(two, 'stream 200', { count: 200 })).said,
            Array.from({ length: 200 }, (_, i) => String(i)),
        );
    });

test('the server inside is restarted: the session is lost, said so, and a new client works', { timeout: 120000 }, async () => {
    const other = await reeve.connect(place);
    const session = await other.createSession({ agent: 'mock' });
    await prompt(session, 'echo before');
    const restarted = await reeve.api('POST', `/v1/workspaces/${place}/restart?wait=60s`);
    assert.equal(restarted.status, 200, restarted.text);
    assert.equal(restarted.body.state, 'ready');
    const error = await failure(within(15000, 'the prompt fails', session.prompt(text('echo lost'))));
    assert.equal(typeof error.code, 'number', `a JSON-RPC error: ${error.stack}`);
    await other.dispose();
    await sdk.dispose();
    sdk = await reeve.connect(place);
    assert.deepEqual((await prompt(await sdk.createSession({ agent: 'mock' }), 'echo again')).said, ['again']);
});

test('two subjects do not meet: server ids are their own', async () => {
    const other = await reeve.connect(place, { key: 'acme member' });
    const mine = await sdk.createSession({ agent: 'mock' });
    const theirs = await other.createSession({ agent: 'mock' });
    await prompt(mine, 'echo mine');
    await prompt(theirs, 'echo a secret of theirs');
    const [ids, foreign] = await Promise.all([sdk.listAcpServers(), other.listAcpServers()]);
    assert.equal(foreign.servers.length, 1);
    const id = foreign.servers[0].serverId;
    assert.ok(!ids.servers.some((s) => s.serverId === id), 'the list is filtered');
    assert.ok(ids.servers.length >= 1);

    const target = `/w/${place}/v1/acp/${id}`;
    const stream = await reeve.api('GET', target, { headers: { accept: 'text/event-stream' } });
    assert.equal(stream.status, 404, stream.text);
    const message = { jsonrpc: '2.0', id: 77, method: 'session/new', params: { cwd: '/', mcpServers: [] } };
    for (const query of ['', '?agent=mock']) {
        const posted = await reeve.api('POST', `${target}${query}`, { body: message });
        assert.equal(posted.status, 200, posted.text);
        assert.equal(posted.body.id, 77);
        assert.equal(posted.body.error.data.code, 'not_found', posted.text);
    }
    const notification = await reeve.api('POST', target, { body: { jsonrpc: '2.0', method: 'session/cancel', params: {} } });
    assert.equal(notification.status, 202, notification.text);
    assert.equal((await reeve.api('DELETE', target)).status, 404);
    assert.deepEqual((await prompt(theirs, 'echo still there')).said, ['still there']);
    await other.dispose();
});

test('a wrong key is 401 and says so', async () => {
    const answer = await reeve.api('GET', `/w/${place}/v1/health`, { key: reeve.key('nobody') });
    assert.equal(answer.status, 401);
    assert.equal(answer.body.code, 'unauthenticated');
});

test('a prompt of 310 s', { timeout: 400000, long: true }, async () => {
    const session = await sdk.createSession({ agent: 'mock' });
    assert.equal((await within(350000, 'the prompt ends', session.prompt(text('sleep 310000')))).stopReason, 'end_turn');
    assert.deepEqual((await prompt(session, 'echo afterwards')).said, ['afterwards']);
});
