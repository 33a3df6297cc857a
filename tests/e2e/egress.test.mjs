// The way out of a sealed sandbox, as the programs inside see it: what the lists allow, what is refused and how, limits,
// reloads. Loopback servers play the outside; names come from a name server of the test.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { NameServer } from './dns.mjs';
import { needNodeInside, parseCsv, Reeve, root, until, within } from './lib.mjs';
import { Authority, serveHttp, serveHttps, stop } from './outside.mjs';
import { after, before, context, test } from './suite.mjs';

let reeve;
let dns;
let outside; // what is exempted
let secret; // the same port on another address of loopback: never to be reached
let secure; // TLS
let port;
let tlsPort;
let authority;
const seen = []; // requests that reached the outside
let leaks = 0; // connections that reached what nobody exempted

// A name of the matrix each, as the only answer, in front of a good one and behind it.
const bad = [
    '0.0.0.0', '0.1.2.3', '10.0.0.1', '10.255.255.255', '100.64.0.1', '100.100.100.200', '127.0.0.9', '127.1.1.1', '127.255.255.254',
    '168.63.129.16', '169.254.0.1', '169.254.169.254', '172.16.0.1', '172.31.255.255', '192.0.0.1', '192.0.0.192', '192.0.2.1',
    '192.88.99.1', '192.168.0.1', '192.168.255.255', '198.18.0.1', '198.51.100.1', '203.0.113.1', '224.0.0.1', '239.255.255.255',
    '240.0.0.1', '255.255.255.255', '::', '::1', '::7f00:1', '::ffff:127.0.0.9', '::ffff:10.0.0.1', '::ffff:169.254.169.254',
    '64:ff9b::7f00:9', '64:ff9b::a00:1', '64:ff9b::a9fe:a9fe', '64:ff9b:1::1', '2002:7f00:9::1', '2002:a00:1::1', '2001::1', '2001:db8::1',
    '2606:4700::5efe:7f00:9', '100::1', 'fc00::1', 'fd00:ec2::254', 'fdff::1', 'fe80::1', 'fec0::1', 'ff02::1', '4000::1',
];

before(async () => {
    needNodeInside();
    outside = await serveHttp((rq, answer) => {
        seen.push(`${rq.method} ${rq.headers.host}${rq.url}`);
        if (rq.url.startsWith('/to?')) {
            answer.writeHead(302, { location: decodeURIComponent(rq.url.slice(4)) }).end();
            return;
        }
        if (rq.url.startsWith('/bytes?')) {
            const bytes = Number(rq.url.slice(7));
            answer.writeHead(200, { 'content-length': bytes }).end(rq.method === 'HEAD' ? '' : Buffer.alloc(bytes, 'x'));
            return;
        }
        let bytes = 0;
        rq.on('data', (part) => (bytes += part.length));
        rq.on('end', () => answer.end(`hello from ${rq.headers.host}, ${bytes} bytes`));
    });
    outside.on('upgrade', (rq, socket, first) => {
        socket.on('error', () => {});
        socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n');
        socket.write(first);
        socket.pipe(socket);
    });
    port = outside.address().port;
    secret = await serveHttp((rq, answer) => answer.end('secret'), { host: '127.0.0.9', port });
    secret.on('connection', () => leaks++);
    let turn = 0;
    const names = {
        'shop.test': [{ a: '127.0.0.1' }],
        'api.shop.test': [{ a: '127.0.0.1' }],
        'other.test': [{ a: '127.0.0.1' }],
        'tls.test': [{ a: '127.0.0.1' }],
        'rebind.test': (type) => (type === 'A' ? [{ a: turn++ % 2 === 0 ? '127.0.0.1' : '127.0.0.9' }] : []),
        'alias.test': [{ cname: 'inside.corp' }],
        'inside.corp': [{ a: '10.1.2.3' }],
        'alias2.test': [{ cname: 'alias.test' }],
        'silent.test': 'silence',
        'closed.test': [{ a: '127.0.0.1' }],
    };
    bad.forEach((address, i) => {
        const r = address.includes(':') ? { aaaa: address } : { a: address };
        names[`n${i}.test`] = [r];
        names[`first${i}.test`] = [r, { a: '127.0.0.1' }];
        names[`last${i}.test`] = [{ a: '127.0.0.1' }, r];
    });
    dns = await NameServer.start(names);
    reeve = await Reeve.start({
        tag: 'egress',
        edit: (config, folder) => {
            authority = new Authority(path.join(folder, 'ca'), ['tls.test', 'shop.test']);
            config.resolve = { servers: [dns.address], timeout: '2s' };
            config.egress = { allow_private: [`127.0.0.1:${port}`] };
            const coding = config.templates.coding;
            coding.network = { allow: [`shop.test:${port}`, `*.shop.test:${port}`] };
            config.templates.open = {
                ...coding,
                // so wide that nothing but the addresses stands in the way
                network: { allow: ['0.0.0.0/0:1-65535', '[::/0]:1-65535', '*.test:1-65535'], limits: { new_per_second: 5000 } },
            };
            config.templates.tight = {
                ...coding,
                network: {
                    allow: [`shop.test:${port}`],
                    limits: { tunnels: 2, bytes_per_second: '128KiB', bytes: '600KiB', idle: '1s' },
                },
            };
            config.templates.window = { ...coding, network: { allow: [`shop.test:${port}`], limits: { bytes: '600KiB' } } };
            config.templates.slow = { ...coding, network: { allow: [`shop.test:${port}`], limits: { new_per_second: 2 } } };
            config.templates.drowsy = {
                ...coding,
                network: { allow: [`shop.test:${port}`] },
                idle: { suspend_after: '6s' },
            };
            for (const sni of ['require', 'allow-missing', 'ignore'])
                config.templates[`sni-${sni}`] = { ...coding, network: { allow: ['tls.test:1-65535'], sni } };
            for (const t of Object.values(config.tenants)) t.templates = Object.keys(config.templates);
        },
    });
    secure = await serveHttps(authority, (rq, answer) => answer.end('secure'));
    tlsPort = secure.address().port;
    reeve.config.egress.allow_private.push(`127.0.0.1:${tlsPort}`);
    reeve.config.egress.tls_ports = [443, tlsPort];
    await reload();
    await workspace('alice/dev', 'coding');
    await workspace('alice/open', 'open');
});
after(async () => {
    await Promise.all([outside, secret, secure].map(stop));
    dns?.close();
    await reeve?.finish();
});
context(() => reeve?.tail(15) ?? '');

async function reload() {
    reeve.writeConfig();
    const done = await reeve.api('POST', '/v1/reload', { key: 'fleet owner' });
    assert.equal(done.status, 200, done.text);
}

async function workspace(place, template) {
    await reeve.workspace(place, { body: { template } });
    await reeve.put(place, 'inside-egress.mjs', fs.readFileSync(path.join(root, 'tests/e2e/inside-egress.mjs')));
}

/** What the program inside says of the proxy. */
async function inside(place, mode, input) {
    const ran = await reeve.inside(place, fs.realpathSync(process.execPath), ['/home/agent/inside-egress.mjs', mode, JSON.stringify(input)], {
        timeoutMs: 60000,
    });
    assert.equal(ran.exitCode, 0, JSON.stringify(ran));
    return JSON.parse(ran.stdout);
}

const curl = async (...args) => reeve.inside('alice/dev', 'curl', ['-sS', '--max-time', '20', ...args]);
const egress = async (place) => (await reeve.api('GET', `/v1/workspaces/${place}/egress`)).body;

test('curl reaches what the list has, through a tunnel and without', async () => {
    for (const extra of [[], ['--proxytunnel']]) {
        const got = await curl(...extra, '--data-binary', 'x'.repeat(1000), `http://shop.test:${port}/a?b=c`);
        assert.equal(got.exitCode, 0, JSON.stringify(got));
        assert.equal(got.stdout, `hello from shop.test:${port}, 1000 bytes`);
        assert.equal(seen.at(-1), `POST shop.test:${port}/a?b=c`);
    }
    const below = await curl(`http://api.shop.test:${port}/`);
    assert.equal(below.stdout, `hello from api.shop.test:${port}, 0 bytes`, JSON.stringify(below));
    const head = await curl('--head', `http://shop.test:${port}/bytes?12345`);
    assert.match(head.stdout, /^HTTP\/1\.1 200 [^]*content-length: 12345\r\n/i);
});

test('what is not on the list is refused, with the reason, and its name is not even asked for', async () => {
    const reached = seen.length;
    const got = await curl('-w', '%{http_code}', `http://other.test:${port}/`);
    assert.match(got.stdout, /"code":"forbidden"/);
    assert.match(got.stdout, /other\.test:\d+ is not on the list `network\.allow` of template `coding` \(line \d+ of the configuration\)/);
    assert.match(got.stdout, /403$/);
    const tunnel = await curl('-v', '--proxytunnel', `http://other.test:${port}/`);
    assert.notEqual(tunnel.exitCode, 0);
    assert.match(tunnel.stderr, /HTTP\/1\.1 403 Forbidden: other\.test:\d+ is not on the list/);
    assert.equal(seen.length, reached);
    assert.ok(!dns.asked.some((q) => q.includes('other.test')), 'a refused name was asked for');
});

test('decisions are listed, explained, counted and audited', async () => {
    for (let i = 0; i < 5; i++) await curl(`http://other.test:${port}/`);
    const { items, ...counts } = await egress('alice/dev');
    const refused = items.find((d) => d.target === `other.test:${port}`);
    assert.equal(refused.decision, 'refused');
    assert.ok(refused.count >= 5);
    const allowed = items.find((d) => d.target === `api.shop.test:${port}`);
    assert.equal(allowed.rule, `*.shop.test:${port}`);
    const line = fs.readFileSync(reeve.file, 'utf8').split('\n')[allowed.line - 1];
    assert.match(line, /\*\.shop\.test/);
    assert.ok(counts.bytes_in > 0 && counts.bytes_out > 0 && counts.refused >= 5, JSON.stringify(counts));
    const why = (target, exit) => {
        const ran = reeve.command('egress', 'why', 'alice/dev', target);
        assert.equal(ran.status, exit, ran.stdout + ran.stderr);
        return ran.stdout;
    };
    process.env.REEVE_URL = reeve.url;
    process.env.REEVE_KEY = reeve.key('acme owner');
    assert.match(why(`api.shop.test:${port}`, 0), new RegExp(`allowed[^]*\\*\\.shop\\.test:${port} \\(line ${allowed.line}`));
    assert.match(why(`other.test:${port}`, 1), /refused[^]*not on the list/);
    assert.equal(reeve.command('egress', 'why', 'alice/dev', '0x7f.1:80').status, 1);
    const audit = await reeve.api('GET', '/v1/audit?limit=500');
    assert.equal(audit.status, 200, audit.text);
    const entries = audit.body.items.filter((e) => e.action === 'egress.refused');
    assert.equal(entries.filter((e) => e.detail.includes('other.test')).length, 1, 'once for one target');
    const metrics = await reeve.api('GET', '/metrics', { key: 'fleet owner' });
    assert.match(metrics.text, /reeve_egress_decisions_total\{decision="refused"\} [1-9]/);
});

test('nothing of the matrix gets through, by literal or by name', { timeout: 120000 }, async () => {
    const literals = bad.map((a) => (a.includes(':') ? `[${a}]:${port}` : `${a}:${port}`));
    const named = bad.flatMap((_, i) => [`n${i}.test:${port}`, `first${i}.test:${port}`, `last${i}.test:${port}`]);
    const odd = ['0x7f.1', '2130706433', '127.1', '0177.0.0.1', '0x7f000001', '127.0.0.9.', '[::ffff:7f00:9]', '[::ffff:127.0.0.9]'].map(
        (h) => `${h}:${port}`,
    );
    const own = new URL(reeve.url).port;
    const reserved = [`127.0.0.1:${own}`, `127.0.0.2:${own}`, `[::1]:${own}`, `0.0.0.0:${own}`, `[::ffff:127.0.0.1]:${own}`];
    const metadata = ['metadata.google.internal:80', 'metadata:80', 'instance-data:80', '169.254.169.254:80', `[fd00:ec2::254]:80`];
    const targets = [...literals, ...named, ...odd, ...reserved, ...metadata, `alias.test:${port}`, `alias2.test:${port}`];
    assert.ok(targets.length >= 120);
    const lines = await inside('alice/open', 'connect', targets);
    for (const t of targets) {
        const want = odd.slice(0, 6).includes(t) ? /^HTTP\/1\.1 400 / : /^HTTP\/1\.1 403 /;
        // a name with an unspecified address may not even resolve
        assert.match(lines[t] ?? 'nothing', want, `${t}: ${lines[t]}`);
    }
    assert.equal(leaks, 0);
    // and what is exempted works, literal or by name
    const good = await inside('alice/open', 'connect', [`127.0.0.1:${port}`, `[::ffff:127.0.0.1]:${port}`, `shop.test:${port}`]);
    for (const [t, line] of Object.entries(good)) assert.match(line, /^HTTP\/1\.1 200 /, t);
});

test('an answer that changes between check and connect changes nothing; redirects are judged anew', async () => {
    for (let i = 0; i < 8; i++) {
        const lines = await inside('alice/open', 'connect', [`rebind.test:${port}`]);
        assert.match(lines[`rebind.test:${port}`], /^HTTP\/1\.1 (200|403) /);
    }
    assert.equal(leaks, 0);
    for (const to of [`http://127.0.0.9:${port}/`, 'http://169.254.169.254/latest/meta-data/', `${reeve.url}/v1/whoami`]) {
        const got = await curl('-L', '-w', '%{http_code}', `http://shop.test:${port}/to?${encodeURIComponent(to)}`);
        // 127.0.0.1 a program reaches without the proxy: its own, and nothing is there
        if (!to.startsWith(reeve.url)) assert.match(got.stdout, /403$/, to);
        assert.doesNotMatch(got.stdout, /secret/);
        const proxied = await curl('-L', '--noproxy', '', '-w', '%{http_code}', `http://shop.test:${port}/to?${encodeURIComponent(to)}`);
        assert.match(proxied.stdout, /403$/, to);
    }
    assert.equal(leaks, 0);
});

test('exemptions open neither Reeve nor its gateways', async () => {
    const own = new URL(reeve.url).port;
    reeve.config.egress.loopback_exempt_ports = [Number(own), 1];
    await reload(); // the gateway of these tests is http://127.0.0.1:1
    const lines = await inside('alice/open', 'connect', [`127.0.0.1:${own}`, `[::1]:${own}`, '127.0.0.1:1']);
    for (const [t, line] of Object.entries(lines)) assert.match(line, /^HTTP\/1\.1 403 .*which no sandbox may reach/, t);
    delete reeve.config.egress.loopback_exempt_ports;
    await reload();
});

test('malformed requests are answered, and nothing is smuggled', async () => {
    const reached = seen.length;
    const rows = [
        [`CONNECT shop.test HTTP/1.1\r\nHost: shop.test\r\n\r\n`, 400],
        [`CONNECT shop.test:0 HTTP/1.1\r\nHost: shop.test\r\n\r\n`, 400],
        [`CONNECT shop.test:65536 HTTP/1.1\r\nHost: shop.test\r\n\r\n`, 400],
        [`CONNECT ${'a'.repeat(64)}.test:${port} HTTP/1.1\r\nHost: x\r\n\r\n`, 400],
        [`CONNECT ${'a.'.repeat(130)}test:${port} HTTP/1.1\r\nHost: x\r\n\r\n`, 400],
        [`CONNECT shop.test:${port} HTTP/1.1\r\nHost: other.test:${port}\r\n\r\n`, 400],
        [`CONNECT shop.test:${port} HTTP/1.1\r\nHost: shop.test:${port}\r\nContent-Length: 4\r\n\r\nabcd`, 400],
        [`GET http://shop.test:${port}/ HTTP/1.1\r\nHost: other.test\r\n\r\n`, 400],
        [`GET http://user@shop.test:${port}/ HTTP/1.1\r\nHost: shop.test:${port}\r\n\r\n`, 400],
        [`GET https://shop.test:${port}/ HTTP/1.1\r\nHost: shop.test:${port}\r\n\r\n`, 501],
        [`POST http://shop.test:${port}/ HTTP/1.1\r\nHost: shop.test:${port}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`, 400],
        [`CONNECT m\u00fcnchen.test:${port} HTTP/1.1\r\nHost: x\r\n\r\n`, 400],
    ];
    for (const [bytes, status] of rows) {
        const got = await inside('alice/dev', 'raw', bytes);
        assert.match(got, new RegExp(`^HTTP/1\\.1 ${status} `), `${bytes.split('\r\n')[0]} -> ${got.split('\r\n')[0]}`);
        assert.match(got.split('\r\n')[0], /: .{10}/, `no reason: ${got.split('\r\n')[0]}`);
        assert.equal(got.match(/HTTP\/1\.1 /g).length, 1, `two answers to ${bytes.split('\r\n')[0]}`);
    }
    assert.equal(seen.length, reached);
    // two requests in one: the second is a request of its own, and judged
    const two = await inside(
        'alice/dev',
        'raw',
        `GET http://shop.test:${port}/one HTTP/1.1\r\nHost: shop.test:${port}\r\n\r\nGET http://other.test:${port}/two HTTP/1.1\r\nHost: other.test:${port}\r\n\r\n`,
    );
    assert.match(two, /^HTTP\/1\.1 200 [^]*hello from shop[^]*HTTP\/1\.1 403 /);
    assert.ok(!seen.some((s) => s.includes('/two')));
});

test('names that do not resolve and places that do not answer are told apart', async () => {
    const lines = await inside('alice/open', 'connect', ['none.test:80', 'silent.test:80', 'closed.test:1000']);
    assert.match(lines['none.test:80'], / 502 .*no such name/);
    assert.match(lines['silent.test:80'], / 504 .*name servers do not answer/);
    assert.match(lines['closed.test:1000'], / 403 .*not public/);
});

test('the TLS hello must name what was asked for', { timeout: 120000 }, async () => {
    const target = `tls.test:${tlsPort}`;
    const want = {
        require: { right: true, wrong: false, none: false, plain: false },
        'allow-missing': { right: true, wrong: false, none: true, plain: false },
        ignore: { right: true, wrong: true, none: true, plain: true },
    };
    for (const [sni, w] of Object.entries(want)) {
        const place = `alice/sni-${sni}`;
        await workspace(place, `sni-${sni}`);
        const right = await inside(place, 'tls', { target, servername: 'tls.test' });
        assert.equal(right.tls, 'TLSv1.3', `${sni}: ${JSON.stringify(right)}`);
        const bytewise = await inside(place, 'tls', { target, servername: 'tls.test', split: true });
        assert.equal(bytewise.tls, 'TLSv1.3', `${sni} split: ${JSON.stringify(bytewise)}`);
        const wrong = await inside(place, 'tls', { target, servername: 'other.test' });
        assert.equal(wrong.tls !== undefined, w.wrong, `${sni} wrong: ${JSON.stringify(wrong)}`);
        const none = await inside(place, 'tls', { target });
        assert.equal(none.tls !== undefined, w.none, `${sni} none: ${JSON.stringify(none)}`);
        const [plain] = await inside(place, 'hold', { targets: [target], send: 'GET / HTTP/1.0\r\n\r\n' });
        assert.match(plain.line, / 200 /); // and then cut, by Reeve or by the TLS server
        const decisions = (await egress(place)).items.filter((d) => d.decision === 'cut').map((d) => d.reason);
        assert.deepEqual(decisions.sort(), { require: ['not_tls', 'sni_mismatch', 'sni_missing'], 'allow-missing': ['not_tls', 'sni_mismatch'], ignore: [] }[sni]);
        await reeve.remove(place);
    }
});

/** A hello of TLS 1.3 without a key: the server asks for another. */
function helloWithoutKey(name) {
    const u16 = (n) => Buffer.from([n >> 8, n & 255]);
    const extension = (type, ...body) => Buffer.concat([u16(type), u16(Buffer.concat(body).length), ...body]);
    const extensions = Buffer.concat([
        extension(0, u16(name.length + 3), Buffer.from([0]), u16(name.length), Buffer.from(name)),
        extension(10, u16(2), u16(29)),
        extension(13, u16(2), u16(0x0403)),
        extension(43, Buffer.from([2, 3, 4])),
        extension(51, u16(0)),
    ]);
    const body = Buffer.concat([u16(0x0303), Buffer.alloc(32, 7), Buffer.from([0, 0, 2, 0x13, 1, 1, 0]), u16(extensions.length), extensions]);
    const message = Buffer.concat([Buffer.from([1, 0]), u16(body.length), body]);
    return Buffer.concat([Buffer.from([22, 3, 1]), u16(message.length), message]).toString('latin1');
}

test('a second TLS hello must name it as well', { timeout: 120000 }, async () => {
    // it speaks on a curve that clients do not begin with
    const picky = await serveHttps(authority, (rq, answer) => answer.end('secure'), { curve: 'secp384r1' });
    const pickyPort = picky.address().port;
    const place = 'alice/again';
    try {
        reeve.config.egress.allow_private.push(`127.0.0.1:${pickyPort}`);
        await reload();
        await workspace(place, 'sni-require');
        const got = await inside(place, 'tls', { target: `tls.test:${pickyPort}`, servername: 'tls.test' });
        assert.equal(got.tls, 'TLSv1.3', JSON.stringify(got));
        const target = `tls.test:${tlsPort}`;
        const head = `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`;
        // all at once, before the server has asked
        const bytes = helloWithoutKey('tls.test') + '\x14\x03\x03\x00\x01\x01' + helloWithoutKey('shop.test');
        const answer = await inside(place, 'raw', head + bytes);
        assert.match(answer, /^HTTP\/1\.1 200 [^]*\r\n\r\n\x16\x03\x03/); // the server asks
        const cut = (await egress(place)).items.find((d) => d.decision === 'cut');
        assert.equal(cut?.reason, 'sni_mismatch', JSON.stringify(await egress(place)));
        assert.match(cut.detail, /names shop\.test/);
    } finally {
        reeve.config.egress.allow_private.pop();
        await reload();
        await reeve.remove(place);
        await stop(picky);
    }
});

test('who is slow on purpose is not waited for', { timeout: 120000 }, async () => {
    const place = 'alice/lazy';
    await workspace(place, 'sni-require');
    const target = `tls.test:${tlsPort}`;
    const [head, hello] = await Promise.all([
        inside(place, 'slow', { first: `CONNECT ${target} HTTP/1.1\r\nHost: `, more: 'x' }),
        inside(place, 'slow', { first: `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`, more: '\x16\x03\x01\x20\x00\x01\x00\x1f' }),
    ]);
    for (const [what, got] of Object.entries({ head, hello })) assert.ok(got.ms >= 5000 && got.ms < 60000, `${what}: ${JSON.stringify(got)}`);
    assert.match(hello.got, /^HTTP\/1\.1 200 /);
    const cut = (await egress(place)).items.find((d) => d.decision === 'cut');
    assert.equal(cut.reason, 'bad_hello');
    await reeve.remove(place);
});

test('an upgrade inside a tunnel is the tunnel\'s business, outside of one it is not passed on', async () => {
    const ask = `GET /up HTTP/1.1\r\nHost: shop.test:${port}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nping`;
    const through = await inside('alice/dev', 'raw', `CONNECT shop.test:${port} HTTP/1.1\r\nHost: shop.test:${port}\r\n\r\n${ask}`);
    assert.match(through, /^HTTP\/1\.1 200 [^]*HTTP\/1\.1 101 [^]*ping$/);
    const plain = await inside('alice/dev', 'raw', ask.replace('GET /up', `GET http://shop.test:${port}/up`).replace('ping', ''));
    assert.match(plain, /^HTTP\/1\.1 200 [^]*hello from/);
});

test('limits: connections, their rate, bytes a second and in a window, idle time', { timeout: 120000 }, async () => {
    await workspace('alice/tight', 'tight');
    await workspace('alice/slow', 'slow');
    const target = `shop.test:${port}`;
    const held = await inside('alice/tight', 'hold', { targets: [target, target, target] });
    assert.match(held[0].line, / 200 /);
    assert.match(held[1].line, / 200 /);
    assert.match(held[2].line, / 429 .*network\.limits\.tunnels`, line \d+ of the configuration/);
    assert.ok(held[0].ms >= 900, `idle after ${held[0].ms} ms`);
    const rate = Object.values(await inside('alice/slow', 'hold', { targets: Array(12).fill(target), send: 'x\r\n\r\n' }));
    assert.ok(rate.filter((r) => / 200 /.test(r.line)).length >= 4);
    assert.ok(rate.some((r) => / 429 .*network\.limits\.new_per_second/.test(r.line)), JSON.stringify(rate.map((r) => r.line)));
    // 128 KiB are saved up, the rest comes at 128 KiB a second
    const down = await inside('alice/tight', 'download', { target, path: `/bytes?${400 * 1024}` });
    assert.ok(down.bytes > 400 * 1024, JSON.stringify(down));
    assert.ok(down.ms >= 1500, `${down.bytes} bytes in ${down.ms} ms`);
    const over = await inside('alice/tight', 'download', { target, path: `/bytes?${2000 * 1024}` });
    assert.ok(over.bytes < 2000 * 1024, 'the window was not kept');
    const [after] = Object.values(await inside('alice/tight', 'connect', [target]));
    assert.match(after, / 429 .*network\.limits\.bytes/);
    const reasons = (await egress('alice/tight')).items.map((d) => `${d.decision} ${d.reason}`);
    for (const r of ['refused tunnels', 'cut idle', 'cut window_bytes', 'refused window_bytes']) assert.ok(reasons.includes(r), `${r}: ${reasons}`);
});

test('the bytes of a window end when they are used, not a moment later', { timeout: 120000 }, async () => {
    await workspace('alice/window', 'window');
    const got = await inside('alice/window', 'download', { target: `shop.test:${port}`, path: `/bytes?${100 * 1024 * 1024}` });
    assert.ok(got.bytes > 400 * 1024 && got.bytes < 1024 * 1024, `${got.bytes} bytes of 600 KiB`);
    await reeve.remove('alice/window');
});

test('a reload cuts what is no longer allowed, and nothing else', async () => {
    const target = `shop.test:${port}`;
    const held = inside('alice/dev', 'hold', { targets: [target, `api.shop.test:${port}`] });
    await until('both are open', 20000, async () => (await egress('alice/dev')).open === 2);
    reeve.config.templates.coding.network.allow = [`api.shop.test:${port}`];
    await reload();
    await until('one is cut', 20000, async () => (await egress('alice/dev')).open === 1);
    const cut = (await egress('alice/dev')).items.find((d) => d.decision === 'cut');
    assert.equal(cut.target, target);
    assert.equal(cut.reason, 'not_listed');
    reeve.config.tenants.acme.network = { allow: [`elsewhere.test:${port}`] }; // the tenant narrows
    await reload();
    const lines = await within(30000, 'the program inside ends', held);
    assert.equal(lines.length, 2);
    const [now] = Object.values(await inside('alice/dev', 'connect', [`api.shop.test:${port}`]));
    assert.match(now, / 403 .*not on the tenant's `network\.allow` \(line \d+/);
    delete reeve.config.tenants.acme.network;
    reeve.config.templates.coding.network.allow = [`shop.test:${port}`, `*.shop.test:${port}`];
    await reload();
});

test('a reload while a name is asked for asks again; one while a connection is made judges again', { timeout: 120000 }, async () => {
    const coding = reeve.config.templates.coding.network;
    const formerly = [...coding.allow];
    dns.names['late.test'] = 'silence';
    coding.allow = [...formerly, `late.test:${port}`];
    reeve.config.resolve.timeout = '20s';
    await reload();
    const late = inside('alice/dev', 'connect', [`late.test:${port}`]);
    await until('the name is asked for', 20000, () => dns.asked.some((q) => q.includes('late.test')));
    dns.names['late.test'] = [{ a: '127.0.0.1' }];
    reeve.config.resolve.timeout = '21s'; // another resolver
    await reload();
    assert.match(Object.values(await late)[0], / 200 /);

    // a server whose queue is full: its kernel answers when it accepts again
    const flag = path.join(reeve.folder, 'go-on');
    const script = `
        import fs from 'node:fs';
        import net from 'node:net';
        const server = net.createServer((s) => s.on('error', () => {}).resume());
        server.listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => {
            fs.writeSync(1, server.address().port + '\\n');
            const end = Date.now() + 60000;
            while (!fs.existsSync(${JSON.stringify(flag)}) && Date.now() < end) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
        });
        process.stdin.on('end', () => process.exit()).resume();`;
    const busy = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['pipe', 'pipe', 'inherit'] });
    const fillers = [];
    try {
        const busyPort = Number(await within(20000, 'the busy server listens', new Promise((resolve) => busy.stdout.once('data', (d) => resolve(`${d}`)))));
        for (let i = 0; i < 4; i++) fillers.push(net.connect(busyPort, '127.0.0.1').on('error', () => {}));
        await until('its queue is full', 20000, () => fillers.filter((s) => !s.connecting).length >= 2);
        coding.allow = [...formerly, `127.0.0.1:${busyPort}`];
        reeve.config.egress.allow_private.push(`127.0.0.1:${busyPort}`);
        await reload();
        const was = (await egress('alice/dev')).open;
        const caught = inside('alice/dev', 'connect', [`127.0.0.1:${busyPort}`]);
        await until('it is being connected to', 20000, async () => (await egress('alice/dev')).open > was);
        coding.allow = formerly;
        await reload();
        fs.writeFileSync(flag, '');
        assert.match(Object.values(await caught)[0], / 403 .*not on the list| 504 /); // 504: this machine was too slow
    } finally {
        for (const s of fillers) s.destroy();
        busy.stdin.end();
        reeve.config.egress.allow_private = reeve.config.egress.allow_private.slice(0, 2);
        coding.allow = formerly;
        reeve.config.resolve.timeout = '2s';
        await reload();
    }
});

test('what a workspace\'s own limit refuses is not taken from its tenant', { timeout: 120000 }, async () => {
    reeve.config.tenants.acme.network = { limits: { new_per_second: 10 } };
    await reload();
    await workspace('alice/slow2', 'slow');
    const rate = Object.values(await inside('alice/slow2', 'hold', { targets: Array(80).fill(`shop.test:${port}`), send: 'x\r\n\r\n' }));
    assert.ok(rate.some((r) => /: this workspace .*network\.limits\.new_per_second/.test(r.line)), JSON.stringify(rate.map((r) => r.line)));
    assert.deepEqual(rate.map((r) => r.line).filter((line) => /tenant acme/.test(line)), []);
    delete reeve.config.tenants.acme.network;
    await reload();
    await reeve.remove('alice/slow2');
});

test('traffic keeps a workspace awake, attempts that are refused do not', { timeout: 180000 }, async () => {
    const place = 'alice/drowsy';
    await workspace(place, 'drowsy');
    const state = async () => (await reeve.api('GET', `/v1/workspaces/${place}`)).body.state;
    const loop = async (name) => {
        const made = await reeve.api('POST', `/w/${place}/v1/processes`, {
            body: { command: '/bin/sh', args: ['-c', `while true; do curl -s -o /dev/null http://${name}:${port}/; sleep 0.2; done`] },
        });
        assert.equal(made.status, 200, made.text);
    };
    await loop('shop.test');
    const from = (await egress(place)).allowed;
    for (const end = Date.now() + 10000; Date.now() < end; await new Promise((r) => setTimeout(r, 500))) assert.equal(await state(), 'ready');
    assert.ok((await egress(place)).allowed > from + 3);
    // now the same is refused, and it goes to sleep
    reeve.config.templates.drowsy.network.allow = [];
    await reload();
    await until('it sleeps', 60000, async () => (await state()) === 'suspended');
    assert.ok((await egress(place)).refused > 3);
    await reeve.remove(place);
});

test('a workspace that is deleted takes its connections with it, and its bytes are on the books', async () => {
    await workspace('alice/gone', 'open');
    const { bytes } = await inside('alice/gone', 'download', { target: `shop.test:${port}`, path: '/bytes?300000' });
    assert.ok(bytes > 300000);
    const { bytes_in: came, bytes_out: went } = await egress('alice/gone');
    const { id } = (await reeve.api('GET', '/v1/workspaces/alice/gone')).body;
    const held = inside('alice/gone', 'hold', { targets: [`shop.test:${port}`] }).catch(() => 'gone');
    await until('it is open', 20000, async () => (await egress('alice/gone')).open === 1);
    await reeve.remove('alice/gone');
    await within(30000, 'the program ended', held);
    await until('nothing is open', 20000, async () => /reeve_egress_open 0\n/.test((await reeve.api('GET', '/metrics', { key: 'fleet owner' })).text));
    const mine = await until('usage has its bytes', 20000, async () => {
        const usage = await reeve.api('GET', '/v1/usage?group_by=workspace');
        return usage.body.items.find((it) => it.workspace_id === id);
    });
    assert.equal(mine.egress_in_bytes, came);
    assert.equal(mine.egress_out_bytes, went);
    assert.equal(mine.tokens, 0);
    const period = new Date().toISOString().slice(0, 7);
    const file = await reeve.api('GET', `/v1/periods/${period}/export?format=csv`);
    assert.equal(file.status, 200, file.text);
    const rows = parseCsv(file.text).filter((r) => r.workspace_id === id);
    assert.deepEqual(rows.map((r) => [r.model, r.token_kind, r.quantity, r.cost]), [
        ['egress', 'egress_in', `${came}`, '0'],
        ['egress', 'egress_out', `${went}`, '0'],
    ]);
});
