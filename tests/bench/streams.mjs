// Memory of Reeve for each connection that does nothing: event streams of an agent, logs that are followed, terminals. A hundred come
// first, so that what is allocated once is not counted; then a thousand more, over ten workspaces (Reeve opens at most 256 connections to
// one). Of all three the server inside is live and silent.
import net from 'node:net';
import { Reeve, sleep } from '../e2e/lib.mjs';
import { memoryOf } from './measure.mjs';

const WORKSPACES = 10;
const SESSIONS = 7; // of an agent in each workspace: a session has at most 16 streams
const TARGET = 10 * 1024;

/** Opens `n` connections, `at` a time, each with its head read. */
async function open(reeve, n, head, status) {
    const port = Number(new URL(reeve.url).port);
    const sockets = [];
    const one = () =>
        new Promise((resolve, reject) => {
            const socket = net.connect(port, '127.0.0.1', () => socket.write(head));
            let got = '';
            const onData = (part) => {
                got += part;
                if (!got.includes('\r\n\r\n')) return;
                socket.off('data', onData);
                socket.on('data', () => {});
                if (got.startsWith(`HTTP/1.1 ${status} `)) resolve(socket);
                else reject(new Error(`expected ${status}: ${got}`));
            };
            socket.on('data', onData);
            socket.on('error', reject);
            socket.on('close', () => reject(new Error(`closed: ${got}`)));
        });
    for (let left = n; left > 0; left -= 20) sockets.push(...(await Promise.all(Array.from({ length: Math.min(20, left) }, one))));
    return sockets;
}

/** `first` and then `each` connections for every head. */
async function growth(reeve, heads, status, first, each) {
    const sockets = [];
    const more = async (n) => {
        for (const head of heads) sockets.push(...(await open(reeve, n, head, status)));
        await sleep(1500); // first comments and events are over
        return memoryOf(reeve.pid);
    };
    const before = await more(first);
    const after = await more(each);
    const closed = sockets.filter((s) => s.destroyed).length;
    for (const s of sockets) s.destroy();
    await sleep(500);
    if (closed > 0) throw new Error(`${closed} of ${sockets.length} streams were closed`);
    const share = (what) => (after[what] - before[what]) / (each * heads.length);
    return { rss: share('rss'), pss: share('pss'), count: each * heads.length, before, after };
}

export default async function (figure) {
    // a Reeve of its own for each kind: memory that an earlier kind has left free would hide the growth
    const kinds = {
        'idle event stream of an agent': async (reeve, place) => {
            await reeve.agentInto(place);
            const message = { jsonrpc: '2.0', id: 1, method: 'initialize', params: { protocolVersion: 1, clientCapabilities: {} } };
            const targets = [];
            for (let i = 0; i < SESSIONS; i++) {
                const made = await reeve.api('POST', `/w/${place}/v1/acp/bench${i}?agent=mock`, { body: message });
                if (made.status !== 200 || made.body?.error) throw new Error(`initialize: ${made.status} ${made.text}`);
                targets.push(`/w/${place}/v1/acp/bench${i}`);
            }
            return [targets, 'Accept: text/event-stream\r\n', 200];
        },
        'idle log of a process, followed': async (reeve, place) => {
            const made = await reeve.api('POST', `/w/${place}/v1/processes`, { body: { command: '/bin/sleep', args: ['600'] } });
            if (made.status !== 200) throw new Error(`processes: ${made.status} ${made.text}`);
            return [[`/w/${place}/v1/processes/${made.body.id}/logs?follow=true`], 'Accept: text/event-stream\r\n', 200];
        },
        'idle terminal (WebSocket)': async (reeve, place) => {
            const made = await reeve.api('POST', `/w/${place}/v1/processes`, { body: { command: '/bin/sleep', args: ['600'], tty: true } });
            if (made.status !== 200) throw new Error(`processes: ${made.status} ${made.text}`);
            const upgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n';
            return [[`/w/${place}/v1/processes/${made.body.id}/terminal/ws`], upgrade, 101];
        },
    };
    for (const [name, prepare] of Object.entries(kinds)) {
        const reeve = await Reeve.start({ tag: 'bench' });
        try {
            const heads = [];
            let status;
            for (let i = 0; i < WORKSPACES; i++) {
                const place = `bench/w${i}`;
                await reeve.workspace(place);
                const [targets, more, expected] = await prepare(reeve, place);
                for (const target of targets)
                    heads.push(`GET ${target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ${reeve.key('acme owner')}\r\n${more}\r\n`);
                status = expected;
            }
            const isMany = heads.length > WORKSPACES;
            const g = await growth(reeve, heads, status, isMany ? 1 : 10, isMany ? 14 : 100);
            figure({
                name: `memory of an ${name}`,
                value: `${(g.pss / 1024).toFixed(1)} KiB (resident ${(g.rss / 1024).toFixed(1)})`,
                target: '≤ 10 KiB',
                peer: `${g.count} of them; the process had ${(g.before.rss / 2 ** 20).toFixed(1)} MiB`,
                met: g.pss <= TARGET,
                data: g,
            });
        } finally {
            await reeve.finish();
        }
    }
}
