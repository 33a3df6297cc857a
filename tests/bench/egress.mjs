// What the way out costs: processor time for a GiB through tunnels and for a connection, memory of an idle tunnel. The peer is
// haproxy in TCP mode before the same server, which judges nothing and counts nothing. Runs alternate.
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { NameServer } from '../e2e/dns.mjs';
import { freePort, Reeve, root, sleep, until } from '../e2e/lib.mjs';
import { cpuOf, end, LOAD_CPU, median, memoryOf, pin, SERVER_CPU, spread, start } from './measure.mjs';

const ROUNDS = 3;
const FILE_MIB = 1024;
const CONNECTIONS = 2000; // of one run
const IDLE = 400;
const run = promisify(execFile);

/** nginx plays the outside: one large file, and an empty answer. */
async function outsideStart(folder) {
    const port = await freePort();
    fs.closeSync(fs.openSync(path.join(folder, 'big'), 'w'));
    fs.truncateSync(path.join(folder, 'big'), FILE_MIB * 2 ** 20);
    fs.chmodSync(folder, 0o755);
    const dirs = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((d) => `${d}_temp_path ${folder}/${d};`).join(' ');
    fs.writeFileSync(
        path.join(folder, 'nginx.conf'),
        `daemon off; master_process off; worker_processes 1; pid ${folder}/pid; error_log stderr crit;
events { worker_connections 8192; }
http { access_log off; sendfile on; ${dirs} server { listen 127.0.0.1:${port} backlog=4096; root ${folder}; location = /none { return 204; } } }
`,
    );
    const nginx = start('taskset', ['-c', String(LOAD_CPU), 'nginx', '-p', folder, '-c', path.join(folder, 'nginx.conf'), '-e', 'stderr'], {
        env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` },
    });
    return { nginx, port };
}

async function haproxyStart(folder, to) {
    const port = await freePort();
    fs.writeFileSync(
        path.join(folder, 'haproxy.cfg'),
        `global
    nbthread 1
    maxconn 4000
defaults
    mode tcp
    timeout connect 5s
    timeout client 10m
    timeout server 10m
listen outside
    bind 127.0.0.1:${port}
    server s 127.0.0.1:${to}
`,
    );
    const haproxy = start('taskset', ['-c', String(SERVER_CPU), 'haproxy', '-db', '-f', path.join(folder, 'haproxy.cfg')], {
        env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` },
    });
    await until(`haproxy passes on: ${haproxy.said}`, 15000, () =>
        run('curl', ['-s', '-o', '/dev/null', '-f', `http://127.0.0.1:${port}/none`]).then(() => true, () => false),
    );
    return { haproxy, port };
}

/** Connections, one after another on 16 at once: through the door when `at` is a target, else straight to a port. */
const connector = `
const net = require('node:net');
const [at, port, count] = [process.argv[1], Number(process.argv[2]), Number(process.argv[3])];
let left = count;
function one() {
    if (left-- <= 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
        const s = net.connect(at ? 8700 : port, '127.0.0.1');
        let got = '';
        const ask = 'GET /none HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n';
        s.write(at ? 'CONNECT ' + at + ' HTTP/1.1\\r\\nHost: ' + at + '\\r\\n\\r\\n' + ask : ask);
        s.on('data', (part) => (got += part));
        s.on('error', reject);
        s.on('close', () => (got.includes(' 204 ') ? resolve() : reject(new Error(got.slice(0, 200)))));
    }).then(one);
}
const from = Date.now();
Promise.all(Array.from({ length: 16 }, one)).then(() => console.log(JSON.stringify({ ms: Date.now() - from })), (e) => { console.error(e.message); process.exit(1); });
`;

export default async function (figure) {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'reeve-bench-out-'));
    const { nginx, port } = await outsideStart(folder);
    const dns = await NameServer.start({ 'outside.test': [{ a: '127.0.0.1', ttl: 60 }] });
    const target = `outside.test:${port}`;
    const reeve = await Reeve.start({
        tag: 'bench',
        edit: (config) => {
            config.resolve = { servers: [dns.address] };
            config.egress = { loopback_exempt_ports: [port] };
            config.templates.coding.network = { allow: [target], limits: { tunnels: 10000, new_per_second: 100000 } };
        },
    });
    let peer;
    try {
        peer = await haproxyStart(folder, port);
        await reeve.workspace('bench/dev');
        await reeve.put('bench/dev', 'inside-egress.mjs', fs.readFileSync(path.join(root, 'tests/e2e/inside-egress.mjs')));
        pin(reeve.pid, SERVER_CPU);
        const inside = async (command, args) => {
            const ran = await reeve.inside('bench/dev', command, args, { timeoutMs: 120000 });
            if (ran.exitCode !== 0) throw new Error(`${command}: ${ran.stderr.slice(0, 500)}`);
            return ran.stdout;
        };
        const node = fs.realpathSync(process.execPath);
        const fetch = ['-s', '-S', '-f', '-o', '/dev/null'];
        const sides = {
            reeve: {
                pid: reeve.pid,
                big: () => inside('curl', [...fetch, '--proxytunnel', `http://${target}/big`]),
                many: () => inside(node, ['-e', connector, target, '0', String(CONNECTIONS)]),
            },
            haproxy: {
                pid: peer.haproxy.pid,
                big: () => run('taskset', ['-c', String(LOAD_CPU), 'curl', ...fetch, `http://127.0.0.1:${peer.port}/big`]),
                many: async () => (await run('taskset', ['-c', String(LOAD_CPU), node, '-e', connector, '', String(peer.port), String(CONNECTIONS)])).stdout,
            },
        };
        const cost = async (pid, work) => {
            const from = cpuOf(pid);
            const out = await work();
            return { cpu: cpuOf(pid) - from, out };
        };
        const got = { reeve: { gib: [], connection: [], rate: [] }, haproxy: { gib: [], connection: [], rate: [] } };
        for (let i = 0; i < ROUNDS; i++)
            for (const [name, side] of Object.entries(sides)) {
                got[name].gib.push((await cost(side.pid, side.big)).cpu / 1000 / (FILE_MIB / 1024));
                const many = await cost(side.pid, side.many);
                got[name].connection.push(many.cpu / CONNECTIONS);
                got[name].rate.push((CONNECTIONS * 1000) / JSON.parse(many.out).ms);
            }
        const row = (what, unit, digits) => {
            const [mine, theirs] = [median(got.reeve[what]), median(got.haproxy[what])];
            return {
                value: `${mine.toFixed(digits)} ${unit} (${spread(got.reeve[what], digits)}), ${(mine / theirs).toFixed(2)} × haproxy`,
                peer: `haproxy ${theirs.toFixed(digits)} ${unit} (${spread(got.haproxy[what], digits)})`,
                data: { mine: got.reeve[what], theirs: got.haproxy[what] },
            };
        };
        figure({ name: 'way out: processor time for a GiB', ...row('gib', 'ms', 0) });
        figure({ name: 'way out: processor time for a connection', ...row('connection', 'µs', 0) });
        figure({ name: 'way out: connections, 16 at once', ...row('rate', 'a second', 0) });
        // idle tunnels: what they add
        const before = memoryOf(reeve.pid).pss;
        const idle = inside(node, ['/home/agent/inside-egress.mjs', 'hold', JSON.stringify({ targets: Array(IDLE).fill(target) })]).catch(() => '');
        await until('the tunnels are open', 60000, async () => (await reeve.api('GET', '/v1/workspaces/bench/dev/egress', { key: 'acme owner' })).body.open === IDLE);
        await sleep(500);
        const bytes = (memoryOf(reeve.pid).pss - before) / IDLE;
        figure({ name: 'way out: memory of an idle tunnel', value: `${(bytes / 1024).toFixed(1)} KiB`, target: '≤ 10 KiB', met: bytes <= 10240 });
        await reeve.remove('bench/dev');
        await idle;
    } finally {
        if (peer) await end(peer.haproxy);
        await end(nginx);
        dns.close();
        reeve.destroy();
        fs.rmSync(folder, { recursive: true, force: true });
    }
}
