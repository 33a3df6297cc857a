// Runs inside a sandbox: asks the forward proxy on the door for what curl would not ask. Prints JSON.
import net from 'node:net';
import tls from 'node:tls';

const [, , mode, text] = process.argv;
const input = JSON.parse(text);

function connected(timeout = 20000) {
    return new Promise((resolve, reject) => {
        const s = net.connect(8700, '127.0.0.1', () => resolve(s));
        s.setTimeout(timeout, () => s.destroy(new Error('timed out')));
        s.on('error', reject);
    });
}

/** Sends a CONNECT and gives the answer's head and the socket. */
async function tunnel(target, early = '') {
    const s = await connected();
    s.write(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n${early}`);
    const head = await new Promise((resolve) => {
        let got = '';
        const onData = (part) => {
            got += part.toString('latin1');
            if (got.includes('\r\n\r\n')) {
                s.off('data', onData);
                resolve(got);
            }
        };
        s.on('data', onData);
        s.on('close', () => resolve(got));
        s.on('error', () => resolve(got));
    });
    return { s, head, line: head.split('\r\n')[0] };
}

const closed = (s) => new Promise((resolve) => (s.destroyed ? resolve() : s.on('close', resolve)));

const modes = {
    /** A status line for each target. */
    async connect(targets) {
        const lines = {};
        const work = [...targets];
        const one = async () => {
            for (let t = work.pop(); t !== undefined; t = work.pop()) {
                const { s, line } = await tunnel(t).catch((e) => ({ line: `error ${e.message}` }));
                lines[t] = line;
                s?.destroy();
            }
        };
        await Promise.all(Array.from({ length: 8 }, one));
        return lines;
    },
    /** Opens them one after another and keeps them; says how long each stayed open. */
    async hold({ targets, send }) {
        const got = [];
        const from = Date.now();
        for (const t of targets) got.push(await tunnel(t));
        const stayed = await Promise.all(
            got.map(async ({ s, line }) => {
                if (!line.includes(' 200 ')) return { line };
                s.resume();
                if (send) s.write(send);
                await closed(s);
                return { line, ms: Date.now() - from };
            }),
        );
        return stayed;
    },
    /** Bytes as they are; what came back until the other side closed, or for two seconds. */
    async raw(bytes) {
        const s = await connected();
        s.write(Buffer.from(bytes, 'latin1'));
        let got = '';
        s.on('data', (part) => (got += part.toString('latin1')));
        s.on('error', () => {});
        await Promise.race([closed(s), new Promise((resolve) => setTimeout(resolve, 2000))]);
        s.destroy();
        return got;
    },
    /** A beginning, then a byte a second of what never ends; how long that was borne. */
    async slow({ first, more }) {
        const s = await connected(90000);
        const from = Date.now();
        let got = '';
        s.on('data', (part) => (got += part.toString('latin1')));
        s.on('error', () => {});
        s.write(first);
        let i = 0;
        const timer = setInterval(() => s.writable && s.write(Buffer.from([more.charCodeAt(Math.min(i++, more.length - 1))])), 1000);
        await Promise.race([closed(s), new Promise((resolve) => s.on('end', resolve))]);
        clearInterval(timer);
        return { got, ms: Date.now() - from };
    },
    /** TLS through a tunnel, with any name or none. `split`: the hello goes out byte by byte. */
    async tls({ target, servername, split }) {
        const { s, line } = await tunnel(target);
        if (!line.includes(' 200 ')) return { line };
        let socket = s;
        if (split) {
            // a loopback pair in between that passes single bytes
            const hub = net.createServer((a) => {
                a.on('data', (part) => {
                    for (const b of part) s.write(Buffer.from([b]));
                });
                a.on('error', () => {});
                s.on('data', (part) => a.write(part));
                s.on('close', () => a.destroy());
            });
            await new Promise((resolve) => hub.listen(0, '127.0.0.1', resolve));
            socket = net.connect(hub.address().port, '127.0.0.1');
            hub.unref();
        }
        return new Promise((resolve) => {
            const t = tls.connect({ socket, servername, rejectUnauthorized: false }, () => {
                resolve({ line, tls: t.getProtocol() });
                t.destroy();
                s.destroy();
            });
            t.on('error', (e) => resolve({ line, error: e.message }));
            t.on('close', () => resolve({ line, error: 'closed' }));
        });
    },
    /** Downloads through a tunnel: bytes and how long they took. */
    async download({ target, path }) {
        const { s, line } = await tunnel(target);
        if (!line.includes(' 200 ')) return { line };
        const from = Date.now();
        let bytes = 0;
        s.write(`GET ${path} HTTP/1.1\r\nHost: ${target}\r\nConnection: close\r\n\r\n`);
        s.on('data', (part) => (bytes += part.length));
        s.on('error', () => {});
        await closed(s);
        return { line, bytes, ms: Date.now() - from };
    },
};

console.log(JSON.stringify(await modes[mode](input)));
process.exit(0);
