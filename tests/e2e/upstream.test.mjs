// Gateways behind TLS: model calls from inside reach one whose certificate is good, and are told why not otherwise.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import https from 'node:https';
import os from 'node:os';
import path from 'node:path';
import { Authority } from './certs.mjs';
import { Reeve, skip, until } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

let reeve;
let folder;
let own; // the authority that the configuration names
let stranger;
const servers = [];
const place = 'alice/dev';

/** A gateway that tells what it was asked. */
function server(files, options = {}, host = '127.0.0.1') {
    return new Promise((resolve, reject) => {
        const s = https.createServer(
            { cert: fs.readFileSync(files.cert), key: fs.readFileSync(files.key), ALPNProtocols: ['http/1.1'], ...options },
            (rq, answer) => {
                const hash = createHash('sha256');
                let n = 0;
                rq.on('data', (part) => {
                    hash.update(part);
                    n += part.length;
                });
                rq.on('end', () => {
                    s.asked.push({ url: rq.url, host: rq.headers.host, sni: rq.socket.servername, version: rq.socket.getProtocol(), port: rq.socket.remotePort });
                    options.answer(rq, answer, { n, sha256: hash.digest('hex') });
                });
            },
        );
        s.asked = [];
        s.on('error', reject);
        s.listen(0, host, () => resolve(s));
        servers.push(s);
    });
}

const answerAll = (rq, answer, body) => {
    answer.writeHead(200, { 'content-type': 'application/json' });
    answer.end(JSON.stringify(body));
};

/** Where the tenant's calls go from now on. */
async function gatewayIs(url, more = { ca: own.pem }) {
    reeve.config.gateways.main = { kind: 'plain', url, secret: 'file:gateway.secret', ...more };
    reeve.writeConfig();
    const told = await reeve.api('POST', '/v1/reload', { key: 'fleet owner' });
    assert.equal(told.status, 200, told.text);
}

/** A model call from inside; "STATUS BODY". */
async function call(body = '{"model":"model-one"}', where = place) {
    const ran = await reeve.inside(where, '/bin/sh', [
        '-c',
        `printf %s '${body}' | curl -s -w ' %{http_code}' -H "x-api-key: $ANTHROPIC_API_KEY" -H 'content-type: application/json' --data-binary @- http://127.0.0.1:8700/v1/messages`,
    ]);
    assert.equal(ran.exitCode, 0, JSON.stringify(ran));
    const [, text, status] = /^(.*) (\d+)$/s.exec(ran.stdout);
    return { status: Number(status), text };
}

before(async () => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'reeve-certs-'));
    own = new Authority(path.join(folder, 'own'), 'own');
    stranger = new Authority(path.join(folder, 'stranger'), 'stranger');
    reeve = await Reeve.start({
        tag: 'upstream',
        edit: (config, at) => {
            config.prices = { file: 'test-prices.yaml', unpriced: 'suspense' };
            fs.writeFileSync(path.join(at, 'test-prices.yaml'), JSON.stringify({ currency: 'USD', version: '1', models: { 'model-one': { input: '3', output: '15' } } }));
        },
    });
    await reeve.workspace(place);
});
after(async () => {
    for (const s of servers) {
        s.closeAllConnections();
        s.close();
    }
    await reeve?.finish();
    if (folder) fs.rmSync(folder, { recursive: true, force: true });
});
context(() => reeve?.tail());

test('a gateway with a good certificate is reached: Host and SNI are its own, connections are kept', async () => {
    const s = await server(own.issue('good', ['DNS:localhost']), { answer: answerAll });
    await gatewayIs(`https://localhost:${s.address().port}/base`);
    for (let i = 0; i < 3; i++) assert.equal((await call()).status, 200);
    assert.deepEqual(s.asked.map((a) => [a.url, a.host, a.sni, a.version]), Array(3).fill(['/base/v1/messages', `localhost:${s.address().port}`, 'localhost', 'TLSv1.3']));
    assert.equal(new Set(s.asked.map((a) => a.port)).size, 1, 'one connection for all');
});

test('an address instead of a name: no SNI, the certificate must name the address', async () => {
    const good = await server(own.issue('address', ['IP:127.0.0.1']), { answer: answerAll });
    await gatewayIs(`https://127.0.0.1:${good.address().port}`);
    assert.equal((await call()).status, 200);
    assert.equal(good.asked[0].sni, false);
    const bad = await server(own.issue('name', ['DNS:localhost']), { answer: answerAll });
    await gatewayIs(`https://127.0.0.1:${bad.address().port}`);
    const told = await call();
    assert.equal(told.status, 502);
    assert.match(told.text, /certificate of 127\.0\.0\.1: it is for other names: localhost/);
});

test('an IPv6 address in the URL', async () => {
    const s = await server(own.issue('six', ['IP:::1']), { answer: answerAll }, '::1').catch((e) => skip(`no IPv6 here: ${e.message}`));
    await gatewayIs(`https://[::1]:${s.address().port}`);
    assert.equal((await call()).status, 200);
    assert.equal(s.asked[0].host, `[::1]:${s.address().port}`);
});

test('each kind of bad certificate is refused, and the agent is told which and why', async () => {
    const cases = [
        [own.issue('old', ['DNS:localhost'], { days: -2 }), /certificate of localhost: expired on \d{4}-\d\d-\d\dT/],
        [own.issue('elsewhere', ['DNS:llm.example.org', 'DNS:*.example.net']), /certificate of localhost: it is for other names: llm\.example\.org, \*\.example\.net/],
        [stranger.issue('foreign', ['DNS:localhost']), /certificate of localhost: issued by an unknown authority: CN=stranger/],
        [{ cert: stranger.pem, key: stranger.pem.replace('.pem', '.key') }, /certificate of localhost: it is self-signed/],
    ];
    for (const [files, why] of cases) {
        const s = await server(files, { answer: answerAll });
        await gatewayIs(`https://localhost:${s.address().port}`);
        const told = await call();
        assert.equal(told.status, 502, told.text);
        assert.match(told.text, why);
        assert.equal(s.asked.length, 0);
    }
});

test('without a CA of its own the system\'s list decides, and it does not know the test\'s authority', async () => {
    const s = await server(own.issue('private', ['DNS:localhost']), { answer: answerAll });
    await gatewayIs(`https://localhost:${s.address().port}`, {});
    const told = await call();
    assert.equal(told.status, 502);
    assert.match(told.text, /issued by an unknown authority: CN=own/);
});

test('old TLS and no TLS at all are refused in words', async () => {
    const old = await server(own.issue('old-tls', ['DNS:localhost']), { answer: answerAll, minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' });
    await gatewayIs(`https://localhost:${old.address().port}`);
    assert.match((await call()).text, /TLS with localhost: the server refuses TLS 1\.2 and newer/);
    await gatewayIs(`https://${new URL(reeve.url).host}`);
    assert.match((await call()).text, /TLS with 127\.0\.0\.1: the server answers in something other than TLS/);
});

test('large bodies both ways, streamed', async () => {
    const size = 5 << 20;
    const s = await server(own.issue('large', ['DNS:localhost']), {
        answer: (rq, answer, body) => {
            assert.equal(body.n, size + 2);
            answer.writeHead(200, { 'content-type': 'application/octet-stream' });
            for (let i = 0; i < 80; i++) answer.write(Buffer.alloc(65536, i));
            answer.end();
        },
    });
    await gatewayIs(`https://localhost:${s.address().port}`);
    const ran = await reeve.inside(place, '/bin/sh', [
        '-c',
        `(printf '"'; head -c ${size} /dev/zero | tr '\\0' x; printf '"') | curl -s -H "x-api-key: $ANTHROPIC_API_KEY" --data-binary @- http://127.0.0.1:8700/v1/messages | sha256sum`,
    ]);
    const expected = createHash('sha256');
    for (let i = 0; i < 80; i++) expected.update(Buffer.alloc(65536, i));
    assert.equal(ran.stdout.split(' ')[0], expected.digest('hex'), JSON.stringify(ran));
});

test('an answer that is cut without a farewell is not taken for a whole one', async () => {
    const s = await server(own.issue('cut', ['DNS:localhost']), {
        answer: (rq, answer) => {
            // no length, no chunks: the end of the connection is the end of the body
            rq.socket.write('HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhalf of it');
            setTimeout(() => rq.socket.destroy(), 50);
        },
    });
    await gatewayIs(`https://localhost:${s.address().port}`);
    const ran = await reeve.inside(place, '/bin/sh', [
        '-c',
        `curl -s -H "x-api-key: $ANTHROPIC_API_KEY" -d '{"model":"model-one"}' http://127.0.0.1:8700/v1/messages; echo " curl $?"`,
    ]);
    assert.match(ran.stdout, /^half of it curl (18|56)\n$/);
});

test('a reload reads the CA file again; a bad one leaves the old one in force and is told with its place', async () => {
    const file = path.join(reeve.folder, 'gateway-ca.pem');
    const s = await server(stranger.issue('moved', ['DNS:localhost']), { answer: answerAll });
    fs.copyFileSync(own.pem, file);
    await gatewayIs(`https://localhost:${s.address().port}`, { ca: 'gateway-ca.pem' });
    assert.equal((await call()).status, 502);
    fs.copyFileSync(stranger.pem, file);
    await gatewayIs(`https://localhost:${s.address().port}`, { ca: 'gateway-ca.pem' });
    assert.equal((await call()).status, 200);
    fs.writeFileSync(file, 'not a certificate\n');
    const told = await reeve.api('POST', '/v1/reload', { key: 'fleet owner' });
    assert.equal(told.status, 400, told.text);
    assert.match(told.text, /gateway-ca\.pem.*there is no certificate in it/);
    assert.equal((await call()).status, 200);
});

test('calls in flight outlive a reload that sends the next ones elsewhere', async () => {
    let release;
    const held = new Promise((resolve) => (release = resolve));
    const slowOne = await server(own.issue('slow', ['DNS:localhost']), {
        answer: async (rq, answer) => {
            answer.writeHead(200, { 'content-type': 'text/plain' });
            answer.write('first ');
            await held;
            answer.end('last');
        },
    });
    const next = await server(own.issue('next', ['DNS:localhost']), { answer: answerAll });
    await gatewayIs(`https://localhost:${slowOne.address().port}`);
    const pending = call();
    await until('the call is at the gateway', 10000, () => slowOne.asked.length === 1);
    await gatewayIs(`https://localhost:${next.address().port}`);
    assert.equal((await call()).status, 200);
    assert.equal(next.asked.length, 1);
    release();
    assert.deepEqual(await pending, { status: 200, text: 'first last' });
});
