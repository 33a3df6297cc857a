// What a proxied request costs: GET of the health of a server in a sandbox, with a key, over kept connections. The peer is nginx that
// passes the same request to the same server, without a sandbox around it and without asking who calls. Runs alternate.
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import os from 'node:os';
import path from 'node:path';
import { freePort, Reeve, until } from '../e2e/lib.mjs';
import { end, load, LOAD_CPU, median, pin, SERVER_CPU, spread, start, systemCalls, wrk } from './measure.mjs';

const ROUNDS = 3;
const CONNECTIONS = 64;

function nginxConfig(folder, port, upstream, token, tls) {
    return `daemon off; master_process off; worker_processes 1; pid ${folder}/nginx.pid; error_log stderr crit;
events { worker_connections 4096; }
http {
    access_log off; client_body_temp_path ${folder}/body; proxy_temp_path ${folder}/proxy; fastcgi_temp_path ${folder}/fastcgi;
    uwsgi_temp_path ${folder}/uwsgi; scgi_temp_path ${folder}/scgi; keepalive_requests 1000000000;
    upstream server { server 127.0.0.1:${upstream}; keepalive 256; keepalive_requests 1000000000; }
    server {
        listen 127.0.0.1:${port}${tls ? ' ssl' : ''};${tls ? `
        ssl_certificate ${tls.cert}; ssl_certificate_key ${tls.key}; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets on;` : ''}
        location /w/bench/dev/ {
            proxy_pass http://server/; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Authorization "Bearer ${token}";
        }
    }
}
`;
}

const status = (url, tls) =>
    new Promise((resolve) => {
        const library = tls ? https : http;
        const rq = library.get(url, { agent: false, ca: tls && fs.readFileSync(tls.ca) }, (answer) => {
            answer.resume();
            answer.on('end', () => resolve(answer.statusCode));
        });
        rq.on('error', () => resolve(undefined));
    });

/** nginx before a server of its own; `tls`: paths of a certificate and its key, and of who vouches for it. */
export async function peerStart(binary, tls) {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'reeve-bench-nginx-'));
    const [port, upstream] = [await freePort(), await freePort()];
    const token = 'a-token-of-the-usual-length-0123456789abcdefghijklmn';
    fs.writeFileSync(path.join(folder, 'nginx.conf'), nginxConfig(folder, port, upstream, token, tls));
    const server = start('taskset', ['-c', String(LOAD_CPU), binary, '--token', token, 'server', '--host', '127.0.0.1', '--port', String(upstream), '--no-telemetry'], {
        env: { HOME: folder, PATH: '/usr/bin:/bin', SANDBOX_AGENT_LOG_HTTP: '0', SANDBOX_AGENT_LOG_STDOUT: '1' },
        stdio: 'ignore',
    });
    const nginx = start('taskset', ['-c', String(SERVER_CPU), 'nginx', '-p', folder, '-c', path.join(folder, 'nginx.conf'), '-e', 'stderr'], {
        env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` },
    });
    const url = `${tls ? 'https' : 'http'}://127.0.0.1:${port}/w/bench/dev/v1/health`;
    await until(`nginx passes on: ${nginx.said}`, 15000, async () => (await status(url, tls)) === 200);
    return {
        pid: nginx.pid,
        port,
        url,
        stop: async () => {
            await end(nginx);
            await end(server);
            fs.rmSync(folder, { recursive: true, force: true });
        },
    };
}

export default async function (figure) {
    const reeve = await Reeve.start({ tag: 'bench' });
    let nginx;
    try {
        await reeve.workspace('bench/dev');
        const inside = reeve.processes().find((p) => p.args[0]?.endsWith('/sandbox-agent'));
        pin(inside.pid, LOAD_CPU);
        pin(reeve.pid, SERVER_CPU);
        nginx = await peerStart(`/proc/${inside.pid}/exe`);
        const options = { connections: CONNECTIONS, headers: { Authorization: `Bearer ${reeve.key('acme owner')}` } };
        const sides = { reeve: { pid: reeve.pid, url: `${reeve.url}/w/bench/dev/v1/health` }, nginx };
        const runs = { reeve: [], nginx: [] };
        for (const side of Object.keys(sides)) await wrk(sides[side].url, { ...options, forSeconds: 1 }); // warm
        for (let i = 0; i < ROUNDS; i++)
            for (const side of Object.keys(sides)) runs[side].push(await load(sides[side].pid, sides[side].url, options));
        const of = (side, what) => runs[side].map((r) => r[what]);
        const [mine, theirs] = [median(of('reeve', 'cpu_us')), median(of('nginx', 'cpu_us'))];
        figure({
            name: 'proxied request: processor time',
            value: `${mine.toFixed(1)} µs (${spread(of('reeve', 'cpu_us'))}), ${(mine / theirs).toFixed(2)} × nginx`,
            target: '≤ 1.2 × nginx',
            peer: `nginx ${theirs.toFixed(1)} µs (${spread(of('nginx', 'cpu_us'))})`,
            met: mine <= 1.2 * theirs,
            data: { reeve_us: of('reeve', 'cpu_us'), nginx_us: of('nginx', 'cpu_us'), steal: [...of('reeve', 'steal'), ...of('nginx', 'steal')] },
        });
        figure({
            name: `  at ${CONNECTIONS} connections, saturated`,
            value: `${median(of('reeve', 'requests').map((n, i) => n / runs.reeve[i].seconds)).toFixed(0)}/s, p99 ${(median(of('reeve', 'p99_us')) / 1000).toFixed(1)} ms`,
            peer: `nginx ${median(of('nginx', 'requests').map((n, i) => n / runs.nginx[i].seconds)).toFixed(0)}/s, p99 ${(median(of('nginx', 'p99_us')) / 1000).toFixed(1)} ms`,
            data: { runs },
        });
        const calls = {};
        for (const side of Object.keys(sides)) calls[side] = await systemCalls(sides[side].pid, sides[side].url, options);
        figure({
            name: 'proxied request: system calls',
            value: `${calls.reeve.total.toFixed(2)} (${calls.reeve.text})`,
            target: '4–5',
            peer: `nginx ${calls.nginx.total.toFixed(2)} (${calls.nginx.text})`,
            met: calls.reeve.total <= 5.05,
            data: { reeve_calls: calls.reeve, nginx_calls: calls.nginx },
        });
    } finally {
        await nginx?.stop();
        await reeve.finish();
    }
}
