// What nobody should send. Each gets an answer that says what is wrong, or the connection is closed, and Reeve goes on.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import net from 'node:net';
import { Reeve, sleep, until } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

let reeve;

before(async () => {
    reeve = await Reeve.start({ tag: 'badinput' });
    await reeve.workspace('alice/dev');
});
context(() => reeve?.tail(15));
after(() => reeve?.finish());

/** Bytes in, bytes out, until the other side closes or `ms` have passed. */
function talk(bytes, { ms = 5000, pieces, half = false } = {}) {
    return new Promise((resolve, reject) => {
        const s = net.connect(Number(new URL(reeve.url).port), '127.0.0.1');
        let text = '';
        let isClosed = false;
        const end = () => resolve({ text, isClosed, status: Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1]) });
        s.on('connect', async () => {
            if (pieces)
                for (const b of bytes) {
                    s.write(b);
                    await sleep(1);
                }
            else s.write(bytes);
            if (half) s.end();
        });
        s.on('data', (d) => (text += d.toString('latin1')));
        s.on('error', (e) => (e.code === 'ECONNRESET' || e.code === 'EPIPE' ? undefined : reject(e)));
        s.on('close', () => {
            isClosed = true;
            end();
        });
        setTimeout(() => {
            if (!isClosed) {
                end();
                s.destroy();
            }
        }, ms);
    });
}

const bearer = () => `Authorization: Bearer ${reeve.key('acme owner')}\r\n`;
const isFine = async () => assert.equal((await reeve.api('GET', '/healthz')).status, 200);

test('malformed HTTP: 400 and the connection is closed', { timeout: 120000 }, async () => {
    const head = (lines, line = 'GET /healthz HTTP/1.1') => `${line}\r\n${lines.map((l) => `${l}\r\n`).join('')}\r\n`;
    const cases = {
        'no HTTP at all': '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n',
        'no version': 'GET /healthz\r\n\r\n',
        'two spaces': head(['Host: x'], 'GET  /healthz HTTP/1.1'),
        'a space in the target': head(['Host: x'], 'GET /heal thz HTTP/1.1'),
        'a control byte in the target': head(['Host: x'], 'GET /heal\x01thz HTTP/1.1'),
        'a method that is none': head(['Host: x'], 'G@T /healthz HTTP/1.1'),
        'no Host': head([]),
        'two Hosts': head(['Host: x', 'Host: y']),
        'a bare LF': 'GET /healthz HTTP/1.1\nHost: x\n\n',
        'a bare CR in a header': head(['Host: x', 'A: b\rc']),
        'a space before the colon': head(['Host: x', 'A : b']),
        'a folded line': head(['Host: x', 'A: b', ' c']),
        'a NUL in a header': head(['Host: x', 'A: b\0c']),
        'a name that is none': head(['Host: x', '(): b']),
        'a header without a colon': head(['Host: x', 'nonsense']),
        'two lengths': head(['Host: x', 'Content-Length: 1', 'Content-Length: 2'], 'POST /v1/reload HTTP/1.1'),
        'a list of lengths': head(['Host: x', 'Content-Length: 1, 1'], 'POST /v1/reload HTTP/1.1'),
        'a negative length': head(['Host: x', 'Content-Length: -1'], 'POST /v1/reload HTTP/1.1'),
        'a length with a sign': head(['Host: x', 'Content-Length: +1'], 'POST /v1/reload HTTP/1.1'),
        'a length in hexadecimal': head(['Host: x', 'Content-Length: 0x1'], 'POST /v1/reload HTTP/1.1'),
        'an enormous length': head(['Host: x', 'Content-Length: 99999999999999999999999'], 'POST /v1/reload HTTP/1.1'),
        'length and chunks': head(['Host: x', 'Content-Length: 4', 'Transfer-Encoding: chunked'], 'POST /v1/reload HTTP/1.1') + '0\r\n\r\n',
        'an unknown coding': head(['Host: x', 'Transfer-Encoding: gzip, chunked'], 'POST /v1/reload HTTP/1.1') + '0\r\n\r\n',
        'chunked, but not last': head(['Host: x', 'Transfer-Encoding: chunked, identity'], 'POST /v1/reload HTTP/1.1') + '0\r\n\r\n',
        'chunks in HTTP/1.0': head(['Host: x', 'Transfer-Encoding: chunked'], 'POST /v1/reload HTTP/1.0') + '0\r\n\r\n',
    };
    for (const [name, bytes] of Object.entries(cases)) {
        const got = await talk(Buffer.from(bytes, 'latin1'));
        assert.ok([400, 501].includes(got.status), `${name}: ${got.text.slice(0, 200)}`);
        assert.ok(got.isClosed, `${name}: the connection stays open`);
        assert.match(got.text, /connection: close/i, name);
        assert.match(got.text, /application\/problem\+json/, name);
        assert.equal(got.text.match(/HTTP\/1\.1 /g).length, 1, name);
    }
    await isFine();
});

test('a body of broken chunks: 400, and nothing of it is taken for a request', async () => {
    for (const chunks of ['zz\r\nab\r\n0\r\n\r\n', '2\r\nabc\r\n0\r\n\r\n', '-1\r\n\r\n', 'ffffffffffffffffff\r\n', '2 \r\nab\r\n0\r\n\r\n', '2\nab\n0\n\n'])
        for (const target of ['/v1/workspaces/find-or-create', '/w/alice/dev/v1/processes/run']) {
            const got = await talk(`POST ${target} HTTP/1.1\r\nHost: x\r\n${bearer()}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n${chunks}GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n`);
            assert.ok(!/"status":"ok"/.test(got.text), `${JSON.stringify(chunks)} to ${target}: ${got.text}`);
            if (got.text !== '') assert.equal(got.status, 400, `${JSON.stringify(chunks)} to ${target}: ${got.text.slice(0, 300)}`);
            assert.ok(got.isClosed);
        }
    await isFine();
});

test('versions, and heads that are too large', async () => {
    for (const version of ['HTTP/2.0', 'HTTP/0.9', 'HTTP/1.2', 'http/1.1', 'HTTP/1.10']) {
        const got = await talk(`GET /healthz ${version}\r\nHost: x\r\n\r\n`);
        assert.ok([400, 505].includes(got.status) || (version === 'HTTP/1.2' && got.status === 200), `${version}: ${got.text.slice(0, 100)}`);
    }
    const many = Array.from({ length: 2000 }, (_, i) => `A${i}: b\r\n`).join('');
    for (const bytes of [
        `GET /healthz HTTP/1.1\r\nHost: x\r\n${many}\r\n`,
        `GET /healthz HTTP/1.1\r\nHost: x\r\nA: ${'b'.repeat(1 << 20)}\r\n\r\n`,
        `GET /${'a'.repeat(1 << 20)} HTTP/1.1\r\nHost: x\r\n\r\n`,
    ]) {
        const got = await talk(bytes);
        assert.ok(got.isClosed);
        // it may be cut off while we still write: then there is nothing to read
        if (got.text !== '') assert.ok([400, 413, 414, 431].includes(got.status), got.text.slice(0, 100));
    }
    await isFine();
});

test('byte by byte, several at a time, and half closed: as good as any', { timeout: 60000 }, async () => {
    const one = `GET /v1/whoami HTTP/1.1\r\nHost: x\r\n${bearer()}Connection: close\r\n\r\n`;
    const slowly = await talk(one, { pieces: true });
    assert.equal(slowly.status, 200, slowly.text);
    const half = await talk(`GET /v1/whoami HTTP/1.1\r\nHost: x\r\n${bearer()}\r\n`, { half: true });
    assert.equal(half.status, 200, half.text);
    const three = `GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n`.repeat(2) + one;
    const pipelined = await talk(three);
    assert.equal(pipelined.text.match(/HTTP\/1\.1 200/g)?.length, 3, pipelined.text);
    assert.ok(pipelined.text.includes('"tenant":"acme"'));
});

test('who sends half a request and waits is let go of', { timeout: 120000 }, async () => {
    const got = await talk('GET /healthz HTTP/1.1\r\nHost: x\r\n', { ms: 90000 });
    assert.ok(got.isClosed);
    await isFine();
});

test('bodies that are too large: 413 before they are read', async () => {
    for (const [method, target, length, auth] of [
        ['PUT', '/v1/workspaces/alice/dev', 10 << 20, bearer()],
        ['POST', '/v1/keys', 9999999999, bearer()],
        ['PUT', '/w/alice/dev/v1/fs/file?path=x', (2 << 20) + 1, bearer()],
        ['POST', '/w/alice/dev/v1/processes/run', 99999999999, bearer()],
        ['POST', '/v1/gateways/main/usage', (4 << 20) + 1, `Authorization: Bearer ${reeve.gatewaySecret}\r\n`],
    ]) {
        const from = Date.now();
        const got = await talk(`${method} ${target} HTTP/1.1\r\nHost: x\r\n${auth}Content-Type: application/json\r\nContent-Length: ${length}\r\n\r\n`);
        assert.equal(got.status, 413, `${target}: ${got.text}`);
        assert.ok(got.isClosed, target);
        assert.ok(Date.now() - from < 3000, `${target}: not at once`);
    }
    const expected = await talk(
        `PUT /w/alice/dev/v1/fs/file?path=x HTTP/1.1\r\nHost: x\r\n${bearer()}Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n`,
    );
    assert.equal(expected.status, 413, expected.text);
    const welcome = await talk(`PUT /w/alice/dev/v1/fs/file?path=x HTTP/1.1\r\nHost: x\r\n${bearer()}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n`, { ms: 1500 });
    assert.equal(welcome.status, 100, welcome.text);
    const strange = await talk(`PUT /w/alice/dev/v1/fs/file?path=x HTTP/1.1\r\nHost: x\r\n${bearer()}Expect: miracles\r\nContent-Length: 4\r\n\r\n`);
    assert.equal(strange.status, 417, strange.text);
    const nobody = await talk('PUT /v1/workspaces/alice/dev HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n');
    assert.equal(nobody.status, 401, 'who is nobody sends nothing');
    assert.ok(nobody.isClosed);
    await isFine();
});

const refuses = async (method, target, options, status, words) => {
    const got = await reeve.api(method, target, options);
    const what = `${method} ${target} ${options.raw ?? JSON.stringify(options.body)}: ${got.status} ${got.text}`;
    assert.equal(got.status, status, what);
    assert.equal(got.headers['content-type'], 'application/problem+json', what);
    assert.equal(got.body.status, status, what);
    assert.match(got.body.type, /^urn:reeve:error:/, what);
    assert.equal(got.body.request_id, got.headers['x-request-id'], what);
    for (const w of [words].flat()) assert.ok((got.body.detail ?? '').includes(w), `${what}\nwithout: ${w}`);
};
const json = (raw) => ({ raw, headers: { 'content-type': 'application/json' } });

test('what is not JSON, or not the JSON that is wanted: 400 that names the place', async () => {
    const target = '/v1/workspaces/find-or-create';
    for (const raw of ['', '{', 'nonsense', '{"namespace":"a",}', "{'namespace':'a'}", '{"namespace":"a"}{"x":1}', '\ufeff{}', '{"namespace":"\\ud800"}', '{"namespace":NaN}', Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])])
        await refuses('POST', target, json(raw), 400, 'body');
    await refuses('POST', target, json('[]'), 400, 'object');
    await refuses('POST', target, json('"text"'), 400, 'object');
    await refuses('POST', target, json('{"namespace":"a","namespace":"b","name":"c"}'), 400, 'namespace');
    await refuses('POST', target, json(`${'['.repeat(100000)}`), 400, 'body');
    await refuses('POST', target, { body: { name: 'x' } }, 400, 'namespace');
    await refuses('POST', target, { body: { namespace: 'x' } }, 400, 'name');
    await refuses('POST', target, { body: { namespace: 1, name: 'x' } }, 400, 'namespace');
    await refuses('POST', target, { body: { namespace: 'x', name: null } }, 400, 'name');
    await refuses('POST', target, { body: { namespace: 'x', name: 'y', nmae: 'z' } }, 400, 'nmae');
    await refuses('POST', target, { body: { namespace: 'x', name: 'y', labels: [] } }, 400, 'labels');
    await refuses('POST', target, { body: { namespace: 'x', name: 'y', labels: { a: 1 } } }, 400, 'labels.a');
    await refuses('POST', target, { body: { namespace: 'x', name: 'y', labels: { '': 'b' } } }, 400, 'labels');
    await refuses('POST', target, { body: { namespace: 'x', name: 'y', labels: Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`l${i}`, 'x'])) } }, 400, 'labels');
    await refuses('POST', target, { body: { namespace: 'x', name: 'y', user: 7 } }, 400, 'user');
    await refuses('POST', target, { body: { namespace: 'x', name: 'y', user: 'u'.repeat(257) } }, 400, 'user');
    await refuses('POST', target, { body: { namespace: 'x', name: 'y', template: 'nothing' } }, 400, 'template');
    await refuses('POST', target, { body: { namespace: 'x', name: 'y', provider: 'nothing' } }, 400, 'provider');
    for (const name of ['ANTHROPIC_API_KEY', 'OPENAI_BASE_URL', 'LD_PRELOAD', 'REEVE_X', 'A=B', '', '1A'])
        await refuses('POST', target, { body: { namespace: 'x', name: 'y', env: { [name]: 'v' } } }, 400, 'env');
    await refuses('POST', '/v1/keys', { body: { name: 'x', role: 'emperor' } }, 400, 'role');
    await refuses('POST', '/v1/keys', { body: { name: 'X!', role: 'viewer' } }, 400, 'name');
    await refuses('POST', '/v1/keys', { body: { name: 'x', role: 'viewer', namespaces: ['ok', 'Not'] } }, 400, 'namespaces[1]');
    assert.deepEqual(
        (await reeve.workspaces('acme')).map((w) => w.name),
        ['dev'],
        'nothing of all that was made',
    );
});

test('names that are none', async () => {
    const bad = ['A', 'a_b', '-a', 'a-', 'a.b', 'a b', 'ä', 'a'.repeat(64), '..', '%2e%2e', 'a%00', 'a%2fb'];
    for (const name of bad) {
        for (const target of [`/v1/workspaces/alice/${encodeURI(name).replaceAll('%25', '%')}`, `/v1/workspaces/${encodeURI(name).replaceAll('%25', '%')}/dev`]) {
            const got = await reeve.api('PUT', target);
            assert.ok([400, 404].includes(got.status), `${target}: ${got.status} ${got.text}`);
            assert.equal(got.headers['content-type'], 'application/problem+json');
        }
        const inBody = await reeve.api('POST', '/v1/workspaces/find-or-create', { body: { namespace: 'alice', name } });
        assert.equal(inBody.status, 400, `${name}: ${inBody.text}`);
        assert.match(inBody.body.detail, /^name/);
    }
    for (const name of ['a', '0', 'a-b', 'a--b', 'a'.repeat(63)]) {
        const got = await reeve.api('GET', `/v1/workspaces/alice/${name}`);
        assert.equal(got.status, 404, `${name}: ${got.text}`);
    }
});

test('routes, methods and query parameters that are none', async () => {
    for (const target of ['/', '/v1', '/v1/', '/v1/nothing', '/v1/workspaces/', '/v1/workspaces/a', '/v1/workspaces/a/b/c', '/v2/workspaces', '/V1/workspaces', '//v1/workspaces', '/w', '/favicon.ico', '/llm/anthropic/v1/messages'])
        await refuses('GET', target, {}, 404, []);
    for (const [method, target, allow] of [
        ['DELETE', '/v1/workspaces', 'GET'],
        ['PATCH', '/v1/workspaces/alice/dev', 'PUT'],
        ['POST', '/v1/whoami', 'GET'],
        ['GET', '/v1/reload', 'POST'],
        ['PUT', '/healthz', 'GET'],
    ])
        await refuses(method, target, {}, 405, allow);
    await refuses('PUT', '/v1/workspaces/alice/dev?wiat=30s', {}, 400, 'wiat');
    for (const wait of ['30', 'soon', '-5s', '5 s', '1e9s', '']) await refuses('PUT', `/v1/workspaces/alice/dev?wait=${encodeURIComponent(wait)}`, {}, 400, 'wait');
    for (const limit of ['0', '-1', '501', 'many', '99999999999999999999', '1.5']) await refuses('GET', `/v1/workspaces?limit=${limit}`, {}, 400, 'limit');
    await refuses('GET', '/v1/workspaces?state=happy', {}, 400, 'state');
    await refuses('GET', '/v1/workspaces?label=nothing', {}, 400, 'label');
    await refuses('GET', '/v1/workspaces?namespace=%ff', {}, 400, 'namespace');
    await refuses('GET', '/v1/workspaces?namespace=%zz', {}, 400, 'namespace');
    for (const [name, value] of [
        ['from', 'yesterday'],
        ['to', '2026-13-01'],
        ['from', '2026-02-30'],
        ['group_by', 'mood'],
    ])
        await refuses('GET', `/v1/usage?${name}=${value}`, {}, 400, name);
    await refuses('GET', '/v1/usage?from=1990-01-01', {}, 400, 'days');
    for (const period of ['2026-13', '2026', '26-01', '2026-1', '2026-011']) await refuses('GET', `/v1/periods/${period}/export`, {}, 400, 'period');
    await refuses('GET', '/v1/periods/2026-01/export?format=pdf', {}, 400, 'format');
});

test('usage reports that are none', async () => {
    const target = '/v1/gateways/main/usage';
    const as = { key: null, headers: { authorization: `Bearer ${reeve.gatewaySecret}` } };
    const good = { id: 'x', key_hash: 'a'.repeat(64), model: 'm', time: new Date().toISOString(), tokens: { input: 1 } };
    for (const [body, words] of [
        [{}, 'events'],
        [{ events: {} }, 'events'],
        [{ events: [], more: 1 }, 'more'],
        [{ events: Array(1001).fill(good) }, 'events'],
    ])
        await refuses('POST', target, { ...as, body }, 400, words);
    await refuses('POST', target, { ...as, raw: 'id,model\n1,2\n' }, 400, []);
    const bad = {
        id: [{ id: '' }, { id: 'x'.repeat(201) }, { id: 5 }, { id: undefined }],
        key_hash: [{ key_hash: 'abc' }, { key_hash: 'A'.repeat(64) }, { key_hash: undefined }],
        model: [{ model: '' }, { model: null }],
        time: [{ time: 'now' }, { time: 1700000000 }, { time: '2026-02-30T00:00:00Z' }, { time: '2026-11-05 12:00:00' }],
        tokens: [{ tokens: 5 }, { tokens: undefined }, { tokens: { input: -1 } }, { tokens: { input: 1.5 } }, { tokens: { input: '1' } }, { tokens: { input: 1e13 } }, { tokens: { tips: 1 } }],
        status: [{ status: 'maybe' }],
        cost: [{ cost: 'much' }],
        estimated: [{ estimated: 'yes' }],
        surprise: [{ surprise: 1 }],
    };
    const events = Object.entries(bad).flatMap(([field, list]) => list.map((change) => ({ field, event: { ...good, ...change } })));
    const got = await reeve.api('POST', target, { ...as, body: { events: events.map((e) => e.event) } });
    assert.equal(got.status, 200, got.text);
    assert.equal(got.body.accepted, 0);
    assert.equal(got.body.rejected.length, events.length, got.text);
    for (const [i, r] of got.body.rejected.entries()) {
        assert.deepEqual([r.index, r.code], [i, 'invalid'], JSON.stringify(events[i]));
        assert.ok(r.detail.includes(events[i].field), `${JSON.stringify(events[i])}: ${r.detail}`);
    }
    await refuses('POST', '/v1/gateways/nothing/usage', { ...as, body: { events: [] } }, 401, []);
    await refuses('POST', '/v1/gateways/main/keys/verify', { ...as, body: {} }, 400, 'key');
    await refuses('POST', '/v1/gateways/main/keys/verify', { ...as, body: { key: 'a', key_hash: 'b' } }, 400, 'key');
    await refuses('POST', '/v1/gateways/main/keys/verify', { ...as, body: { key_hash: 'b' } }, 400, 'key_hash');
});

test('nonsense as a message to an agent: HTTP 200 with a JSON-RPC error, whatever it is', async () => {
    const target = '/w/alice/dev/v1/acp/some-id?agent=mock';
    for (const [raw, code] of [
        ['', -32700],
        ['{', -32700],
        ['nonsense', -32700],
        ['[]', -32600],
        ['[{"jsonrpc":"2.0","id":1,"method":"initialize"}]', -32600],
        ['{}', -32600],
        ['{"jsonrpc":"1.0","id":1,"method":"x"}', -32600],
        ['{"jsonrpc":"2.0","id":{},"method":"x"}', -32600],
        ['{"jsonrpc":"2.0","id":1,"method":7}', -32600],
        ['{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}', -32700],
    ]) {
        const got = await reeve.api('POST', target, json(raw));
        assert.equal(got.status, 200, `${raw}: ${got.text}`);
        assert.equal(got.body.jsonrpc, '2.0');
        assert.equal(got.body.error?.code, code, `${raw}: ${got.text}`);
    }
    for (const id of ['', 'a%20b', 'a/b', 'x'.repeat(500), '%2e%2e']) {
        const got = await reeve.api('POST', `/w/alice/dev/v1/acp/${id}?agent=mock`, { body: { jsonrpc: '2.0', id: 9, method: 'initialize', params: {} } });
        assert.ok(got.status === 404 || (got.status === 200 && got.body.error), `${id}: ${got.status} ${got.text}`);
    }
    const large = await reeve.api('POST', target, { body: { jsonrpc: '2.0', id: 12, method: 'session/prompt', params: { x: 'y'.repeat(3 << 20) } } });
    assert.equal(large.status, 200, large.text);
    assert.deepEqual([large.body.id, large.body.error.data.code], [12, 'too_large'], large.text);
    await isFine();
});

test('connections that come, say something and go: a thousand of them', { timeout: 120000 }, async () => {
    const words = ['', 'G', 'GET / HTTP/1.1\r\n', `GET /v1/whoami HTTP/1.1\r\nHost: x\r\n${bearer()}\r\n`, `PUT /w/alice/dev/v1/fs/file?path=y HTTP/1.1\r\nHost: x\r\n${bearer()}Content-Length: 1000000\r\n\r\nabc`];
    const { port } = new URL(reeve.url);
    for (let i = 0; i < 1000; i += 50)
        await Promise.all(
            Array.from(
                { length: 50 },
                (_, k) =>
                    new Promise((resolve) => {
                        const s = net.connect(Number(port), '127.0.0.1', () => {
                            s.write(words[(i + k) % words.length], () => (k % 2 ? s.destroy() : s.resetAndDestroy()));
                        });
                        s.on('error', () => {});
                        s.on('close', resolve);
                    }),
            ),
        );
    await isFine();
    await until('their descriptors are closed', 20000, () => fs.readdirSync(`/proc/${reeve.pid}/fd`).length < 100);
});

test('a starter configuration is valid, and a bad one is refused with every mistake', async () => {
    const fresh = new Reeve('init');
    try {
        fresh.gatewayUrl = 'http://127.0.0.1:4000';
        fresh.init();
        const valid = fresh.command('check', fresh.file);
        assert.equal(valid.status, 0, valid.stderr);
        fs.appendFileSync(fresh.file, 'lisen: 127.0.0.1:1\nlisten: 127.0.0.1:2\n');
        const bad = fresh.command('check', fresh.file);
        assert.equal(bad.status, 1);
        assert.match(bad.stderr, /reeve\.yaml:\d+:1: unknown key `lisen`; did you mean `listen`\?/);
        assert.match(bad.stderr, /reeve\.yaml:\d+:1: duplicate key `listen`/);
        const served = fresh.command('serve', '-c', fresh.file);
        assert.notEqual(served.status, 0, 'and it is not served');
    } finally {
        fresh.destroy();
    }
});

test('a reload of a bad file changes nothing', async () => {
    fs.writeFileSync(reeve.file, 'listen: nonsense\n');
    const got = await reeve.api('POST', '/v1/reload', { key: 'fleet owner' });
    assert.equal(got.status, 400, got.text);
    assert.match(got.body.detail, /listen/);
    assert.equal((await reeve.api('GET', '/v1/whoami')).status, 200);
    reeve.writeConfig();
    assert.equal((await reeve.api('POST', '/v1/reload', { key: 'fleet owner' })).status, 200);
});
