// Isolation again, with the way out open as wide as it goes: from inside alice's sandbox no program reaches bob, the host,
// the control API, the gateway or a metadata service, whatever road it takes.
import assert from 'node:assert/strict';
import os from 'node:os';
import { NameServer } from './dns.mjs';
import { Reeve } from './lib.mjs';
import { serveHttp, stop, useTools } from './outside.mjs';
import { after, before, context, test } from './suite.mjs';

const word = 'the-secret-of-the-host';
let reeve;
let dns;
let outside;
let gateway;
let hosts = []; // servers of the host that nobody exempted
let places; // what must not be reached: [what, host:port]
const touched = [];

before(async () => {
    outside = await serveHttp((rq, answer) => answer.end('outside'));
    gateway = await serveHttp((rq, answer) => {
        touched.push(`gateway ${rq.url}`);
        answer.end(word);
    });
    const addresses = Object.values(os.networkInterfaces())
        .flat()
        .filter((a) => !a.internal && a.family === 'IPv4')
        .map((a) => a.address);
    for (const host of ['127.0.0.1', '127.0.0.9', ...addresses.slice(0, 2)])
        hosts.push(
            await serveHttp((rq, answer) => {
                touched.push(`host ${host}${rq.url}`);
                answer.end(word);
            }, { host }),
        );
    const out = outside.address().port;
    const names = { 'outside.test': [{ a: '127.0.0.1' }], 'metadata.google.internal': [{ a: '169.254.169.254' }] };
    hosts.forEach((h, i) => (names[`host${i}.test`] = [{ a: h.address().address }]));
    dns = await NameServer.start(names);
    const image = {};
    await useTools({ templates: { coding: image } });
    reeve = await Reeve.start({
        tag: 'apart',
        gateway: `http://127.0.0.1:${gateway.address().port}`,
        edit: (config) => {
            Object.assign(config.templates.coding, image);
            config.resolve = { servers: [dns.address], timeout: '2s' };
            // the gateway and Reeve's own port are exempted on purpose: in vain
            const own = Number(config.listen.split(':')[1]);
            config.egress = { loopback_exempt_ports: [out, own, gateway.address().port] };
            config.templates.coding.network = {
                allow: ['any-public:1-65535', '0.0.0.0/0:1-65535', '[::/0]:1-65535', '*.test:1-65535', 'metadata.google.internal:80'],
                sni: 'ignore',
                limits: { new_per_second: 1000 },
            };
        },
    });
    await Promise.all([reeve.workspace('alice/dev'), reeve.workspace('bob/dev')]);
    const own = new URL(reeve.url).port;
    places = [
        ["bob's server", '127.0.0.1:2468'],
        ["bob's door", '127.0.0.1:8700'],
        ['the control API', `127.0.0.1:${own}`],
        ['the control API by another loopback', `127.0.0.77:${own}`],
        ['the control API by IPv6', `[::1]:${own}`],
        ['the control API by 0.0.0.0', `0.0.0.0:${own}`],
        ['the gateway', `127.0.0.1:${gateway.address().port}`],
        ['metadata', '169.254.169.254:80'],
        ['metadata by name', 'metadata.google.internal:80'],
        ...addresses.slice(0, 2).map((a) => ['the control API by the address of the machine', `${a}:${own}`]),
        ...hosts.map((h, i) => ['a server of the host', `${h.address().address}:${h.address().port}`]),
        ...hosts.map((h, i) => ['a server of the host by name', `host${i}.test:${h.address().port}`]),
    ];
});
after(async () => {
    await Promise.all([outside, gateway, ...hosts].map(stop));
    dns?.close();
    await reeve?.finish();
});
context(() => reeve?.tail(10) ?? '');

const shell = (line) => reeve.inside('alice/dev', '/bin/bash', ['-c', line], { timeoutMs: 60000 });

/** Each road is a line of shell that prints what it got from host:port. NO_PROXY is emptied: everything asks the proxy. */
const roads = {
    'curl, absolute-form': (at) => `curl -sS --noproxy '' --max-time 10 http://${at}/`,
    'curl, CONNECT': (at) => `curl -sS --noproxy '' --proxytunnel --max-time 10 http://${at}/`,
    'curl, SOCKS': (at) => `curl -sS --noproxy '' --max-time 10 --proxy socks5h://127.0.0.1:8700 http://${at}/`,
    Python: (at) => `no_proxy= NO_PROXY= timeout 20 python3 -c "import urllib.request as u; print(u.urlopen('http://${at}/').read())"`,
    git: (at) => `no_proxy= NO_PROXY= timeout 20 git ls-remote http://${at}/x.git`,
    'a raw CONNECT': (at) =>
        `exec 3<>/dev/tcp/127.0.0.1/8700; printf 'CONNECT ${at} HTTP/1.1\\r\\nHost: ${at}\\r\\n\\r\\nGET / HTTP/1.0\\r\\n\\r\\n' >&3; timeout 3 cat <&3`,
};

for (const [road, line] of Object.entries(roads))
    test(`by ${road}`, { timeout: 120000 }, async () => {
        const got = await Promise.all(places.map(async ([what, at]) => [what, at, await shell(line(at))]));
        for (const [what, at, ran] of got) {
            const all = `${ran.stdout}${ran.stderr}`;
            assert.ok(!all.includes(word), `${what} (${at}) answered: ${all}`);
            assert.doesNotMatch(all, /HTTP\/1\.[01] 200/, `${what} (${at})`);
            assert.doesNotMatch(all, /"status":"ok"|sandbox-agent|unauthenticated/i, `${what} (${at}) answered: ${all}`);
        }
        assert.deepEqual(touched, []);
    });

test('directly there is nothing', { timeout: 120000 }, async () => {
    for (const [what, at] of places.filter(([, p]) => !p.endsWith(':2468') && !p.endsWith(':8700'))) {
        const ran = await shell(`curl -sS --noproxy '*' --max-time 5 http://${at}/`);
        assert.notEqual(ran.exitCode, 0, `${what} (${at}): ${ran.stdout}`);
    }
    assert.deepEqual(touched, []);
});

test('what is exempted is reached all the same, and who asked is known', async () => {
    const ran = await shell(`curl -sS --max-time 10 http://outside.test:${outside.address().port}/`);
    assert.equal(ran.stdout, 'outside', JSON.stringify(ran));
    const alice = (await reeve.api('GET', '/v1/workspaces/alice/dev/egress')).body;
    const bob = (await reeve.api('GET', '/v1/workspaces/bob/dev/egress')).body;
    assert.ok(alice.refused > places.length);
    assert.equal(bob.refused + bob.allowed, 0, "bob's books have nothing of alice's");
    const other = await reeve.api('GET', '/v1/workspaces/alice/dev/egress', { key: 'acme bobs' });
    assert.equal(other.status, 404);
    const why = await reeve.api('GET', '/v1/workspaces/alice/dev/egress/why?target=example.org%3A443', { key: 'acme viewer' });
    assert.equal(why.status, 403);
});
