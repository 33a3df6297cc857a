// The way out of a sealed sandbox, as the programs inside see it: what the lists allow, what is refused and how, limits,
// reloads. Loopback servers play the outside; names come from a name server of the test.
import assert from 'node:assert/strict';
import http from 'node:http';
import { NameServer } from './dns.mjs';
import { Reeve } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

let reeve;
let dns;
let outside;
let port;
const seen = []; // requests that reached the outside

before(async () => {
    outside = http.createServer((rq, answer) => {
        seen.push(`${rq.method} ${rq.headers.host}${rq.url}`);
        let bytes = 0;
        rq.on('data', (part) => (bytes += part.length));
        rq.on('end', () => answer.end(`hello from ${rq.headers.host}, ${bytes} bytes`));
    });
    await new Promise((resolve) => outside.listen(0, '127.0.0.1', resolve));
    port = outside.address().port;
    dns = await NameServer.start({
        'shop.test': [{ a: '127.0.0.1' }],
        'api.shop.test': [{ a: '127.0.0.1' }],
        'other.test': [{ a: '127.0.0.1' }],
    });
    reeve = await Reeve.start({
        tag: 'egress',
        edit: (config) => {
            config.resolve = { servers: [dns.address] };
            config.egress = { loopback_exempt_ports: [port] };
            config.templates.coding.network = { allow: [`shop.test:${port}`, `*.shop.test:${port}`] };
        },
    });
    await reeve.workspace('alice/dev');
});
after(async () => {
    outside?.close();
    outside?.closeAllConnections();
    dns?.close();
    await reeve?.finish();
});
context(() => reeve?.tail(15) ?? '');

const curl = async (...args) => reeve.inside('alice/dev', 'curl', ['-sS', '--max-time', '20', ...args]);

test('curl reaches what the list has, through a tunnel and without', async () => {
    for (const extra of [[], ['--proxytunnel']]) {
        const got = await curl(...extra, '--data-binary', 'x'.repeat(1000), `http://shop.test:${port}/a?b=c`);
        assert.equal(got.exitCode, 0, JSON.stringify(got));
        assert.equal(got.stdout, `hello from shop.test:${port}, 1000 bytes`);
        assert.equal(seen.at(-1), `POST shop.test:${port}/a?b=c`);
    }
    const below = await curl(`http://api.shop.test:${port}/`);
    assert.equal(below.stdout, `hello from api.shop.test:${port}, 0 bytes`, JSON.stringify(below));
});

test('what is not on the list is refused, with the reason, and its name is not even asked for', async () => {
    const reached = seen.length;
    const got = await curl('-w', '%{http_code}', `http://other.test:${port}/`);
    assert.match(got.stdout, /"code":"forbidden"/);
    assert.match(got.stdout, /other\.test:\d+ is not on the list `network\.allow`/);
    assert.match(got.stdout, /403$/);
    const tunnel = await curl('-v', '--proxytunnel', `http://other.test:${port}/`);
    assert.notEqual(tunnel.exitCode, 0);
    assert.match(tunnel.stderr, /HTTP\/1\.1 403 Forbidden: other\.test:\d+ is not on the list/);
    assert.equal(seen.length, reached);
    assert.ok(!dns.asked.some((q) => q.includes('other.test')), 'a refused name was asked for');
});
