// The listener behind TLS, asked by others' programs: versions, suites, names, certificates that change, clients that
// stall. Every test has a Reeve of its own.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { Authority } from './certs.mjs';
import { clientLibrary, Reeve, reeveBinary, root, sleep, slow, until, within } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

let folder;
let own;
let first;
let second;
let rsa;
let present; // for a failure's context

before(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'reeve-certs-'));
    own = new Authority(path.join(folder, 'own'), 'own');
    first = own.issue('first', ['DNS:localhost', 'IP:127.0.0.1']);
    second = own.issue('second', ['DNS:localhost', 'IP:127.0.0.1', 'DNS:second.example']);
    rsa = own.issue('rsa', ['DNS:localhost', 'IP:127.0.0.1'], { rsa: true });
});
after(() => folder && fs.rmSync(folder, { recursive: true, force: true }));
context(() => present?.tail());

function copy(reeve, pair) {
    for (const [from, to] of [[pair.cert, 'listener.pem'], [pair.key, 'listener.key']]) {
        fs.copyFileSync(from, path.join(reeve.folder, `${to}.new`));
        fs.renameSync(path.join(reeve.folder, `${to}.new`), path.join(reeve.folder, to));
    }
}

/** A Reeve with a TLS listener beside its plain one, for the length of `fn(reeve, port)`. */
async function withListener(pair, fn, { tls: more, edit } = {}) {
    const reeve = await Reeve.start({
        tag: 'listener',
        edit: (config, at) => {
            copy({ folder: at }, pair);
            config.listen = [config.listen, { address: '127.0.0.1:0', tls: more ?? { cert: 'listener.pem', key: 'listener.key' } }];
            edit?.(config);
        },
    });
    present = reeve;
    try {
        const { port } = reeve.log.find((line) => line.event === 'listening' && line.tls === true);
        await fn(reeve, port);
    } catch (e) {
        reeve.destroy();
        throw e;
    }
    await reeve.finish();
}

function openssl(args, { input = '', timeout = 20000 } = {}) {
    const made = spawnSync('openssl', args, { input, encoding: 'utf8', timeout: timeout * slow });
    return `${made.stdout}\n${made.stderr}`;
}

const s_client = (port, args = [], options) =>
    openssl(['s_client', '-connect', `127.0.0.1:${port}`, '-CAfile', own.pem, ...args], options);

function curl(port, args = [], target = '/healthz') {
    const made = spawnSync('curl', ['-sS', '--cacert', own.pem, '--max-time', String(30 * slow), ...args, `https://localhost:${port}${target}`], { encoding: 'utf8' });
    return { text: made.stdout, error: made.stderr, code: made.status };
}

/** One request on a given agent; gives status, certificate's common name and the local port. */
function ask(port, agent, target = '/healthz') {
    return new Promise((resolve, reject) => {
        const rq = https.get({ host: '127.0.0.1', port, path: target, agent, ca: fs.readFileSync(own.pem), servername: 'localhost', timeout: 30000 * slow }, (answer) => {
            const { socket } = answer;
            const name = socket.getPeerCertificate().subject?.CN;
            answer.resume();
            answer.on('end', () => resolve({ status: answer.statusCode, name, local: socket.localPort, version: socket.getProtocol() }));
            answer.on('error', reject);
        });
        rq.on('timeout', () => rq.destroy(new Error('no answer')));
        rq.on('error', reject);
    });
}

test('curl, openssl s_client and Node speak to it, TLS 1.2 and 1.3, ALPN http/1.1', () =>
    withListener(first, async (reeve, port) => {
        for (const version of ['--tlsv1.2', '--tlsv1.3']) {
            const got = curl(port, [version, ...(version === '--tlsv1.2' ? ['--tls-max', '1.2'] : []), '-w', ' %{http_version}']);
            assert.deepEqual(got, { text: got.text, error: '', code: 0 });
            assert.match(got.text, / 1\.1$/);
        }
        const told = s_client(port, ['-alpn', 'h2,http/1.1', '-verify_return_error', '-verify_hostname', 'localhost'], { input: 'Q\n' });
        assert.match(told, /ALPN protocol: http\/1\.1/);
        assert.match(told, /TLSv1\.3/);
        assert.match(told, /Verify return code: 0 \(ok\)/);
        assert.match(s_client(port, ['-alpn', 'h2']), /no application protocol/);
        assert.equal((await ask(port)).version, 'TLSv1.3');
        assert.match(s_client(port, ['-tls1_2'], { input: 'R\n' }), /no renegotiation|RENEGOTIATING[^]*error/);
    }));

/** What the server chooses of `offered` (codes), by a hand-written ClientHello; undefined when it refuses. */
function choose(port, version, offered, { modern = false } = {}) {
    const u16 = (n) => Buffer.from([n >> 8, n & 255]);
    const block = (b) => Buffer.concat([u16(b.length), b]);
    const extension = (type, b) => Buffer.concat([u16(type), block(b)]);
    const extensions = [
        extension(10, block(Buffer.concat([0x001d, 0x0017, 0x0018].map(u16)))),
        extension(11, Buffer.from([1, 0])),
        extension(13, block(Buffer.concat([0x0403, 0x0804, 0x0401, 0x0501, 0x0203, 0x0201].map(u16)))),
        ...(modern ? [extension(43, Buffer.from([2, 3, 4])), extension(51, block(Buffer.concat([u16(0x001d), block(Buffer.alloc(32, 9))])))] : []),
    ];
    const body = Buffer.concat([
        u16(version),
        Buffer.alloc(32, 7),
        Buffer.from([0]),
        block(Buffer.concat(offered.map(u16))),
        Buffer.from([1, 0]),
        block(Buffer.concat(extensions)),
    ]);
    const message = Buffer.concat([Buffer.from([1, 0]), u16(body.length), body]);
    const hello = Buffer.concat([Buffer.from([22, 3, 1]), u16(message.length), message]);
    return within(
        20000,
        'an answer to a ClientHello',
        new Promise((resolve, reject) => {
            let got = Buffer.alloc(0);
            const s = net.connect(port, '127.0.0.1', () => s.write(hello));
            s.on('error', reject);
            s.on('close', () => reject(new Error('closed without an answer')));
            s.on('data', (part) => {
                got = Buffer.concat([got, part]);
                if (got.length < 7) return;
                if (got[0] === 21) resolve(undefined);
                else if (got.length < 5 + 4 + 2 + 32 + 1 + 34) return;
                else resolve(got.readUInt16BE(5 + 4 + 2 + 32 + 1 + got[5 + 4 + 2 + 32]));
                s.removeAllListeners('close');
                s.destroy();
            });
        }),
    );
}

test('no weak suite and no old version is accepted, of all that were ever registered', async () => {
    const strong12 = new Set([0xc02b, 0xc02c, 0xc02f, 0xc030, 0xcca8, 0xcca9]); // ECDHE with AES-GCM or ChaCha20-Poly1305
    const strong13 = new Set([0x1301, 0x1302, 0x1303]);
    const range = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => from + i);
    const all = [...range(0x0000, 0x00ff), ...range(0x1301, 0x1305), ...range(0x5600, 0x5600), ...range(0xc001, 0xc0ff), ...range(0xc100, 0xc107), ...range(0xcca8, 0xccae), ...range(0xd001, 0xd005), ...range(0xff80, 0xffff)].filter(
        (code) => code !== 0x00ff && code !== 0x5600, // two signals, no suites
    );
    for (const pair of [first, rsa])
        await withListener(pair, async (reeve, port) => {
            const taken = { 12: new Set(), 13: new Set() };
            for (const [which, modern] of [['12', false], ['13', true]]) {
                for (let left = all; ; ) {
                    const code = await choose(port, 0x0303, left, { modern });
                    if (code === undefined) break;
                    assert.ok(left.includes(code));
                    taken[which].add(code);
                    left = left.filter((c) => c !== code);
                }
            }
            for (const code of taken[12]) assert.ok(strong12.has(code), `TLS 1.2 takes 0x${code.toString(16)}`);
            for (const code of taken[13]) assert.ok(strong13.has(code) || strong12.has(code), `TLS 1.3 takes 0x${code.toString(16)}`);
            assert.ok([...taken[12]].length >= 3, 'the strong ones are there');
            assert.ok(taken[13].has(0x1301) && taken[13].has(0x1302) && taken[13].has(0x1303));
            for (const old of [0x0300, 0x0301, 0x0302]) assert.equal(await choose(port, old, all), undefined, `version 0x${old.toString(16)}`);
        });
});

test('each name is shown its certificate, any other the first', async () => {
    const one = own.issue('one', ['DNS:one.example']);
    const many = own.issue('many', ['DNS:*.apps.example']);
    await withListener(
        first,
        async (reeve, port) => {
            const shown = (name) => /subject=CN = (\S+)/.exec(s_client(port, name ? ['-servername', name] : ['-noservername'], { input: 'Q\n' }))[1];
            assert.deepEqual(
                ['one.example', 'x.apps.example', 'x.y.apps.example', 'localhost', 'nobody.example', undefined].map(shown),
                ['one', 'many', 'first', 'first', 'first', 'first'],
            );
        },
        { tls: [first, one, many] },
    );
});

test('sessions are resumed by tickets, and not across a change of certificates', () =>
    withListener(first, async (reeve, port) => {
        for (const version of ['-tls1_3', '-tls1_2']) {
            const file = path.join(reeve.folder, `session${version}`);
            const begin = (args) => {
                // the ticket of TLS 1.3 comes with the first answer
                const made = spawnSync('sh', ['-c', `(printf 'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n'; sleep 0.3) | openssl s_client -connect 127.0.0.1:${port} -CAfile '${own.pem}' ${version} -ign_eof ${args}`], { encoding: 'utf8', timeout: 30000 * slow });
                return made.stdout;
            };
            copy(reeve, first);
            await until('the first is shown', 20000, () => /CN = first/.test(s_client(port, [], { input: 'Q\n' })));
            assert.match(begin(`-sess_out '${file}'`), /New, TLSv1/);
            const again = begin(`-sess_in '${file}' -sess_out '${file}.2'`);
            assert.match(again, /Reused, TLSv1/);
            assert.match(again, /HTTP\/1\.1 200/);
            copy(reeve, second);
            await until('the second is shown', 20000, () => /CN = second/.test(s_client(port, [], { input: 'Q\n' })));
            const later = begin(`-sess_in '${file}'`);
            assert.match(later, /New, TLSv1/);
            assert.match(later, /HTTP\/1\.1 200/);
        }
    }));

test('certificates are swapped under 200 open connections without one error', { timeout: 120000 }, () =>
    withListener(first, async (reeve, port) => {
        const agents = Array.from({ length: 200 }, () => new https.Agent({ keepAlive: true, maxSockets: 1, maxCachedSessions: 0 }));
        const errors = [];
        let isOver = false;
        let requests = 0;
        const ports = agents.map(() => new Set());
        try {
            const client = async (agent, i) => {
                while (!isOver) {
                    try {
                        const got = await ask(port, agent);
                        if (got.status !== 200) errors.push(got.status);
                        ports[i].add(got.local);
                        requests++;
                    } catch (e) {
                        errors.push(e.message);
                    }
                    await sleep(50 + (i % 50));
                }
            };
            const clients = agents.map(client);
            await until('all are connected', 60000, () => ports.every((p) => p.size > 0));
            for (const [pair, name] of [[second, 'second'], [rsa, 'rsa'], [first, 'first']]) {
                copy(reeve, pair);
                await until(`${name} is shown to new clients`, 30000, async () => (await ask(port, new https.Agent({ maxCachedSessions: 0 }))).name === name);
                const seen = requests;
                await until('requests go on', 30000, () => requests > seen + 200);
            }
            isOver = true;
            await Promise.all(clients);
            assert.deepEqual(errors, []);
            assert.ok(ports.every((p) => p.size === 1), 'all the while on the connections that were open');
            assert.equal(reeve.log.filter((l) => l.event === 'listener.certificates_applied').length, 3);
        } finally {
            isOver = true;
            for (const agent of agents) agent.destroy();
        }
    }));

test('bad new files leave the old certificate in force and are told; good ones are taken afterwards', () =>
    withListener(first, async (reeve, port) => {
        const refusals = () => reeve.log.filter((l) => l.event === 'listener.certificates_refused');
        const shown = async () => (await ask(port, new https.Agent({ maxCachedSessions: 0 }))).name;
        const at = (name) => path.join(reeve.folder, name);
        const cases = [
            [() => fs.writeFileSync(at('listener.pem'), 'rubbish\n'), /no certificate in it/],
            [() => copy(reeve, { cert: second.cert, key: first.key }), /the key is not that of the \(first\) certificate/],
            [() => copy(reeve, own.issue('late', ['DNS:localhost'], { days: -1 })), /the certificate has expired/],
            [() => fs.rmSync(at('listener.key')), /cannot read .*listener\.key/],
        ];
        for (const [spoil, why] of cases) {
            const had = refusals().length;
            spoil();
            await until(`a refusal: ${why}`, 20000, () => refusals().slice(had).some((l) => why.test(l.detail)));
            assert.equal(await shown(), 'first');
        }
        const told = await reeve.api('POST', '/v1/reload', { key: 'fleet owner' });
        assert.equal(told.status, 400);
        assert.match(told.text, /reeve\.yaml:\d+:\d+: cannot read `listener\.key`/);
        assert.equal(await shown(), 'first');
        copy(reeve, second);
        await until('the good one is shown', 20000, async () => (await shown()) === 'second');
        const { text } = await reeve.api('GET', '/metrics', { key: 'fleet owner' });
        assert.match(text, /^reeve_tls_certificates_applied_total 1$/m);
        assert.ok(Number(/^reeve_tls_certificates_refused_total (\d+)$/m.exec(text)[1]) >= 4);
        const expires = Number(/^reeve_tls_certificates_expire_seconds (\d+)$/m.exec(text)[1]);
        assert.ok(Math.abs(expires - Date.now() / 1000 - 10 * 86400) < 86400);
    }));

test('a reload changes each listener by itself, also where several take any port', () =>
    withListener(
        first,
        async (reeve) => {
            const ports = reeve.log.filter((line) => line.event === 'listening' && line.tls === true).map((line) => line.port);
            const shown = async () => Promise.all(ports.map(async (port) => (await ask(port, new https.Agent({ maxCachedSessions: 0 }))).name));
            assert.deepEqual(await shown(), ['first', 'rsa']);
            reeve.config.listen[2].tls = { ...second };
            reeve.writeConfig();
            assert.equal((await reeve.api('POST', '/v1/reload', { key: 'fleet owner' })).status, 200);
            assert.deepEqual(await shown(), ['first', 'second']);
        },
        { edit: (config) => config.listen.push({ address: '127.0.0.1:0', tls: { ...rsa } }) },
    ));

test('a reload puts other files in force at once', () =>
    withListener(first, async (reeve, port) => {
        const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
        const before = await ask(port, agent);
        reeve.config.listen[1].tls = [{ ...second }];
        reeve.writeConfig();
        const told = await reeve.api('POST', '/v1/reload', { key: 'fleet owner' });
        assert.equal(told.status, 200, told.text);
        assert.equal((await ask(port, new https.Agent({ maxCachedSessions: 0 }))).name, 'second');
        const now = await ask(port, agent);
        assert.equal(now.local, before.local);
        agent.destroy();
    }));

test('certificates behind symbolic links that are turned around, as certbot and Kubernetes do it', () =>
    withListener(
        first,
        async (reeve, port) => {
            const shown = async () => (await ask(port, new https.Agent({ maxCachedSessions: 0 }))).name;
            const turn = (name, pair) => {
                const at = path.join(reeve.folder, name);
                fs.mkdirSync(at);
                fs.copyFileSync(pair.cert, path.join(at, 'tls.crt'));
                fs.copyFileSync(pair.key, path.join(at, 'tls.key'));
                fs.symlinkSync(name, path.join(reeve.folder, '..data_new'));
                fs.renameSync(path.join(reeve.folder, '..data_new'), path.join(reeve.folder, '..data'));
            };
            turn('one', first);
            reeve.config.listen[1].tls = { cert: '..data/tls.crt', key: '..data/tls.key' };
            reeve.writeConfig();
            assert.equal((await reeve.api('POST', '/v1/reload', { key: 'fleet owner' })).status, 200);
            assert.equal(await shown(), 'first');
            turn('two', second);
            await until('the second is shown', 20000, async () => (await shown()) === 'second');
            assert.equal(reeve.log.filter((l) => l.event === 'listener.certificates_refused').length, 0);
        },
    ));

test('clients that stall in the handshake stop nobody, and are dropped', { timeout: 120000 }, () =>
    withListener(first, async (reeve, port) => {
        const stalled = [];
        let closed = 0;
        let drip;
        for (let i = 0; i < 540; i++) {
            const s = net.connect(port, '127.0.0.1');
            s.on('error', () => {});
            s.on('close', () => closed++);
            s.write(Buffer.from([22, 3, 1, 2, 0, 1, 0]));
            stalled.push(s);
        }
        try {
            // 512 at a time: the oldest gave way
            await until('the oldest are gone', 30000, () => closed >= 28);
            drip = setInterval(() => stalled.forEach((s) => s.writable && s.write(Buffer.from([1]))), 1000); // slow is no better than silent
            for (let i = 0; i < 20; i++) assert.equal((await ask(port, new https.Agent({ maxCachedSessions: 0 }))).status, 200);
            await until('all of them are gone', 40000, () => closed === 540);
            const { text } = await reeve.api('GET', '/metrics', { key: 'fleet owner' });
            assert.match(text, /^reeve_tls_handshakes_failed_total 540$/m);
        } finally {
            clearInterval(drip);
            for (const s of stalled) s.destroy();
        }
    }));

test('an early refusal reaches a client that is still sending', () =>
    withListener(first, async (reeve, port) => {
        const big = path.join(reeve.folder, 'big');
        fs.writeFileSync(big, Buffer.alloc(16 << 20, 'x'));
        for (const more of [['-H', 'Expect:'], ['-H', 'Expect:', '-H', 'Transfer-Encoding: chunked']]) {
            const got = curl(port, [...more, '-H', `Authorization: Bearer ${reeve.key('acme owner')}`, '-X', 'PUT', '--data-binary', `@${big}`], '/v1/workspaces/a/b');
            assert.equal(got.error, '');
            assert.equal(JSON.parse(got.text).status, 413);
        }
    }));

test('plain HTTP on the TLS port is told so', () =>
    withListener(first, async (reeve, port) => {
        const got = await new Promise((resolve, reject) => {
            http.get({ host: '127.0.0.1', port, path: '/healthz', agent: false }, (answer) => {
                let text = '';
                answer.on('data', (part) => (text += part));
                answer.on('end', () => resolve({ status: answer.statusCode, text }));
            }).on('error', reject);
        });
        assert.deepEqual(got, { status: 400, text: 'This port speaks HTTPS: use https://.\n' });
    }));

test('the client library, terminals, event streams, large files and the command line over TLS', { timeout: 120000 }, async () => {
    await clientLibrary();
    await withListener(first, async (reeve, port) => {
        await reeve.workspace('alice/dev');
        const base = `https://localhost:${port}`;
        const script = `
            const { SandboxAgent } = await import(${JSON.stringify(path.join(root, 'build/e2e/node_modules/sandbox-agent/dist/index.js'))});
            const agent = await SandboxAgent.connect({ baseUrl: '${base}/w/alice/dev', token: process.env.REEVE_KEY });
            const big = new Uint8Array(1 << 20).map((_, i) => i % 251);
            const h = { authorization: 'Bearer ' + process.env.REEVE_KEY };
            const put = await fetch('${base}/w/alice/dev/v1/fs/file?path=big', { method: 'PUT', headers: h, body: big });
            const got = new Uint8Array(await (await fetch('${base}/w/alice/dev/v1/fs/file?path=big', { headers: h })).arrayBuffer());
            console.log(put.status, Buffer.compare(got, big));
            const { WebSocket } = await import(${JSON.stringify(path.join(root, 'build/e2e/node_modules/ws/wrapper.mjs'))});
            const shell = await agent.createProcess({ command: '/bin/sh', tty: true, interactive: true });
            const terminal = agent.connectProcessTerminal(shell.id, { WebSocket });
            let out = '';
            terminal.onData((data) => {
                out += Buffer.from(data).toString();
                if (out.includes('do' + 'ne\\r\\n')) terminal.sendInput('exit\\n');
            });
            await new Promise((resolve) => terminal.onReady(resolve));
            terminal.sendInput('i=0; while [ $i -lt 5000 ]; do echo row $i; i=$((i+1)); done; echo do""ne\\n');
            await terminal.closed;
            console.log(['row 0', 'row 2500', 'row 4999'].every((row) => out.includes(row)));
            const stream = await fetch('${base}/v1/workspaces/alice/dev/events', { headers: h });
            const told = (async () => {
                let text = '';
                for await (const part of stream.body) {
                    text += new TextDecoder().decode(part);
                    if (text.includes('"suspended"')) return true;
                }
                return text;
            })();
            const asleep = await fetch('${base}/v1/workspaces/alice/dev/suspend', { method: 'POST', headers: h });
            console.log(stream.status, asleep.status, await told);
            process.exit(0);`;
        const env = { ...process.env, REEVE_KEY: reeve.key('acme owner'), REEVE_URL: base, REEVE_CA: own.pem, NODE_EXTRA_CA_CERTS: own.pem };
        const run = (command, args) =>
            within(60000, command, new Promise((resolve) => {
                const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
                let text = '';
                child.stdout.on('data', (part) => (text += part));
                child.stderr.on('data', (part) => (text += part));
                child.on('close', (code) => resolve({ code, text }));
            }));
        assert.deepEqual(await run(process.execPath, ['--input-type=module', '-e', script]), { code: 0, text: '200 0\ntrue\n200 202 true\n' });
        const listed = await run(reeveBinary, ['workspace', 'ls']);
        assert.equal(listed.code, 0, listed.text);
        assert.match(listed.text, /alice +dev|alice\/dev/);
        delete env.REEVE_CA;
        const refused = await run(reeveBinary, ['workspace', 'ls']);
        assert.notEqual(refused.code, 0);
        assert.match(refused.text, /certificate/);
    });
});

test('other machines are served without TLS only where that is said in plain words', async () => {
    const check = (listen) => {
        const at = fs.mkdtempSync(path.join(os.tmpdir(), 'reeve-check-'));
        try {
            const config = {
                listen,
                public_url: 'https://reeve.example.org',
                data_dir: 'data',
                providers: { local: { kind: 'local' } },
                templates: { t: { providers: ['local'] } },
                tenants: { x: { templates: ['t'] } },
            };
            fs.writeFileSync(path.join(at, 'reeve.yaml'), JSON.stringify(config));
            const made = spawnSync(reeveBinary, ['check', path.join(at, 'reeve.yaml')], { encoding: 'utf8' });
            return { status: made.status, text: made.stdout + made.stderr };
        } finally {
            fs.rmSync(at, { recursive: true, force: true });
        }
    };
    for (const listen of ['0.0.0.0:8700', '[::]:8700', '10.1.2.3:80', { address: '0.0.0.0:80' }]) {
        const got = check(listen);
        assert.equal(got.status, 1);
        assert.match(got.text, /other machines could reach this address without TLS/);
    }
    assert.equal(check({ address: '0.0.0.0:80', plain_http: 'allowed' }).status, 0);
    assert.equal(check({ address: '0.0.0.0:80', tls: { cert: first.cert, key: first.key } }).status, 0);
    assert.equal(check('127.0.0.1:80').status, 0);
});
