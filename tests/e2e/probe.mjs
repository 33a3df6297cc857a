// Runs inside a sandbox and tries what it is told: each argument is a JSON list. Prints a JSON list of what became of
// them: "ok …" or "error CODE", and for connections how long it took.
import dgram from 'node:dgram';
import dns from 'node:dns/promises';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';

const tries = {
    tcp: (host, port) =>
        new Promise((resolve) => {
            const from = Date.now();
            const s = net.connect({ host, port, timeout: 8000 });
            s.on('connect', () => resolve({ result: 'ok', ms: Date.now() - from }) || s.destroy());
            s.on('timeout', () => resolve({ result: 'error TIMEOUT', ms: Date.now() - from }) || s.destroy());
            s.on('error', (e) => resolve({ result: `error ${e.code}`, ms: Date.now() - from }));
        }),
    udp: (host, port) =>
        new Promise((resolve) => {
            const s = dgram.createSocket(net.isIPv6(host) ? 'udp6' : 'udp4');
            s.on('error', (e) => resolve({ result: `error ${e.code}` }));
            s.send('x', port, host, (e) => resolve({ result: e ? `error ${e.code}` : 'ok' }));
        }),
    // what a stranger gets who connects to a unix socket and says something
    unix: (path) =>
        new Promise((resolve) => {
            let got = '';
            const from = Date.now();
            const s = net.connect({ path });
            s.on('connect', () => s.write(Buffer.from([2, 0, 0, 0, 64, 1])));
            s.on('data', (data) => (got += data.toString('hex')));
            s.on('error', (e) => resolve({ result: `error ${e.code}`, got, ms: Date.now() - from }));
            s.on('close', () => resolve({ result: 'closed', got, ms: Date.now() - from }));
            setTimeout(() => resolve({ result: 'open', got, ms: Date.now() - from }) || s.destroy(), 8000);
        }),
    http: (method, port, path, headers) =>
        new Promise((resolve) => {
            const rq = http.request({ host: '127.0.0.1', port, method, path, headers, timeout: 8000 }, (answer) => {
                let text = '';
                answer.on('data', (part) => (text += part));
                answer.on('end', () => resolve({ result: `ok ${answer.statusCode}`, text: text.slice(0, 500) }));
                answer.on('error', (e) => resolve({ result: `error ${e.code}` }));
            });
            rq.on('connect', (answer, socket) => resolve({ result: `ok ${answer.statusCode}` }) || socket.destroy());
            rq.on('timeout', () => rq.destroy());
            rq.on('error', (e) => resolve({ result: `error ${e.code}` }));
            rq.end();
        }),
    dns: (name) => dns.lookup(name).then((a) => ({ result: `ok ${a.address}` }), (e) => ({ result: `error ${e.code}` })),
    read: (path) => ({ result: `ok ${fs.readFileSync(path).length}` }),
    text: (path) => ({ result: 'ok', text: fs.readFileSync(path, 'utf8') }),
    list: (path) => ({ result: 'ok', names: fs.readdirSync(path) }),
    write: (path) => (fs.writeFileSync(path, 'x'), fs.unlinkSync(path), { result: 'ok' }),
    rename: (from, to) => (fs.renameSync(from, to), { result: 'ok' }),
    remove: (path) => (fs.unlinkSync(path), { result: 'ok' }),
    kill: (pid, signal) => (process.kill(pid, signal), { result: 'ok' }),
    who: () => ({ result: 'ok', uid: process.getuid(), gid: process.getgid(), groups: process.getgroups() }),
};

const out = [];
for (const arg of process.argv.slice(2)) {
    const [what, ...rest] = JSON.parse(arg);
    try {
        out.push(await tries[what](...rest));
    } catch (e) {
        out.push({ result: `error ${e.code ?? e.message}` });
    }
}
console.log(JSON.stringify(out));
process.exit(0);
