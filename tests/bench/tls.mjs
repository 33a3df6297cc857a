// What TLS costs on the listener: a proxied request over kept connections, a new connection with its handshake, the memory of an idle
// connection. The peer is nginx with the same certificate, before the same server. Runs alternate.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import tls from 'node:tls';
import { Authority } from '../e2e/certs.mjs';
import { Reeve, sleep } from '../e2e/lib.mjs';
import { load, LOAD_CPU, median, memoryOf, pin, SERVER_CPU, spread, wrk } from './measure.mjs';
import { peerStart } from './proxy.mjs';

const ROUNDS = 3;
const CONNECTIONS = 64;
const IDLE = 1000;

/** Connections that have had one answer each, and stay. */
async function idleConnections(port, ca, target, headers) {
    const open = [];
    const one = () =>
        new Promise((resolve, reject) => {
            const s = tls.connect({ host: '127.0.0.1', port, ca, servername: 'localhost' }, () =>
                s.write(`GET ${target} HTTP/1.1\r\nHost: localhost\r\n${Object.entries(headers).map(([k, v]) => `${k}: ${v}\r\n`).join('')}\r\n`),
            );
            s.once('data', resolve);
            s.on('error', reject);
            s.once('close', () => reject(new Error('closed')));
            open.push(s);
        });
    for (let i = 0; i < IDLE; i += 50) await Promise.all(Array.from({ length: 50 }, one));
    await sleep(300);
    return open;
}

export default async function (figure) {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'reeve-bench-tls-'));
    const own = new Authority(folder, 'own');
    const files = { ...own.issue('server', ['DNS:localhost', 'IP:127.0.0.1']), ca: own.pem };
    const reeve = await Reeve.start({
        tag: 'bench',
        edit: (config) => (config.listen = [config.listen, { address: '127.0.0.1:0', tls: { cert: files.cert, key: files.key } }]),
    });
    let nginx;
    try {
        await reeve.workspace('bench/dev');
        const { port } = reeve.log.find((line) => line.event === 'listening' && line.tls === true);
        const inside = reeve.processes().find((p) => p.args[0]?.endsWith('/sandbox-agent'));
        pin(inside.pid, LOAD_CPU);
        pin(reeve.pid, SERVER_CPU);
        nginx = await peerStart(`/proc/${inside.pid}/exe`, files);
        const headers = { Authorization: `Bearer ${reeve.key('acme owner')}` };
        const sides = { reeve: { pid: reeve.pid, port, url: `https://127.0.0.1:${port}/w/bench/dev/v1/health` }, nginx };
        const rows = [
            ['proxied request over TLS: processor time', { connections: CONNECTIONS, headers }],
            ['new TLS connection with one such request: processor time', { connections: CONNECTIONS, headers: { ...headers, Connection: 'close' } }],
        ];
        for (const [name, options] of rows) {
            const runs = { reeve: [], nginx: [] };
            for (const side of Object.keys(sides)) await wrk(sides[side].url, { ...options, forSeconds: 1 }); // warm
            for (let i = 0; i < ROUNDS; i++)
                for (const side of Object.keys(sides)) runs[side].push((await load(sides[side].pid, sides[side].url, options)).cpu_us);
            const [mine, theirs] = [median(runs.reeve), median(runs.nginx)];
            figure({
                name,
                value: `${mine.toFixed(1)} µs (${spread(runs.reeve)}), ${(mine / theirs).toFixed(2)} × nginx`,
                target: '≤ 1.2 × nginx',
                peer: `nginx ${theirs.toFixed(1)} µs (${spread(runs.nginx)})`,
                met: mine <= 1.2 * theirs,
                data: { reeve_us: runs.reeve, nginx_us: runs.nginx },
            });
        }
        const each = {};
        for (const side of Object.keys(sides)) {
            const before = memoryOf(sides[side].pid).pss;
            const open = await idleConnections(sides[side].port, fs.readFileSync(own.pem), '/w/bench/dev/v1/health', headers);
            each[side] = (memoryOf(sides[side].pid).pss - before) / IDLE / 1024;
            for (const s of open) {
                s.removeAllListeners('close');
                s.destroy();
            }
        }
        figure({
            name: `memory of an idle TLS connection (${IDLE})`,
            value: `${each.reeve.toFixed(1)} KiB`,
            peer: `nginx ${each.nginx.toFixed(1)} KiB`,
            data: { reeve_kib: each.reeve, nginx_kib: each.nginx },
        });
    } finally {
        await nginx?.stop();
        await reeve.finish();
        fs.rmSync(folder, { recursive: true, force: true });
    }
}
