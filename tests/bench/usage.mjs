// Usage events a second, durable: reported over HTTP as a gateway does, one at a time on many connections and a hundred in a request.
// Peers: the same without HTTP (bench_billing), the store alone (bench_store), and how fast this disk makes a small write durable.
// Afterwards the counters must say that every event was accepted, once.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Reeve, sleep } from '../e2e/lib.mjs';
import { built, cpuOf, load, median, output } from './measure.mjs';

/** ms for a write of 4 KiB at a file's end and fdatasync. */
function diskSync(n = 100) {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'reeve-bench-disk-'));
    try {
        const fd = fs.openSync(path.join(folder, 'file'), 'w');
        const took = [];
        for (let i = 0; i < n; i++) {
            const from = process.hrtime.bigint();
            fs.writeSync(fd, Buffer.alloc(4096, i));
            fs.fdatasyncSync(fd);
            took.push(Number(process.hrtime.bigint() - from) / 1e6);
        }
        fs.closeSync(fd);
        return median(took);
    } finally {
        fs.rmSync(folder, { recursive: true, force: true });
    }
}

async function counters(reeve) {
    const { text } = await reeve.api('GET', '/metrics', { key: 'fleet owner' });
    const of = (name) => Number(new RegExp(`^reeve_usage_${name} (\\d+)`, 'm').exec(text)[1]);
    return {
        accepted: of('events_accepted_total'),
        other: of('events_duplicates_total') + of('events_conflicts_total') + of('events_suspense_total') + of('failures_total'),
    };
}

/** The counters when nothing of an earlier run is under way any more. */
export async function settled(reeve) {
    for (let last; ; ) {
        const now = await counters(reeve);
        if (last && now.accepted === last.accepted) return now;
        last = now;
        await sleep(300);
    }
}

async function post(reeve, hash, connections, batch) {
    const before = await settled(reeve);
    const cpu = cpuOf(reeve.pid);
    const report = await load(reeve.pid, `${reeve.url}/v1/gateways/main/usage`, {
        connections,
        script: 'usage.lua',
        args: [hash, batch, `${Date.now().toString(36)}-${connections}`],
        headers: { Authorization: `Bearer ${reeve.gatewaySecret}` },
    });
    const after = await settled(reeve);
    const events = after.accepted - before.accepted;
    if (events < report.requests * batch || events > (report.requests + connections) * batch || after.other !== before.other)
        throw new Error(`${report.requests} requests of ${batch} were answered, but ${events} events were accepted, ${after.other - before.other} were not`);
    return { ...report, batch, connections, events, rate: (report.requests * batch) / report.seconds, cpu_us_per_event: (cpuOf(reeve.pid) - cpu) / events };
}

export default async function (figure) {
    const disk = diskSync();
    const store = await output(built('bench_store'), [100000, 100, 8]);
    const storeRate = Number(/([\d.]+) events\/s/.exec(store)[1]);
    const billing = JSON.parse(await output(built('bench_billing'), [100000, 100, 8]));
    const billingSingle = JSON.parse(await output(built('bench_billing'), [20000, 1, 64]));
    const reeve = await Reeve.start({ tag: 'bench' });
    try {
        await reeve.workspace('bench/dev');
        const ran = await reeve.inside('bench/dev', '/bin/sh', ['-c', 'printf %s "$ANTHROPIC_API_KEY" | sha256sum']);
        const hash = /^[0-9a-f]{64}/.exec(ran.stdout)?.[0];
        if (!hash) throw new Error(`the workspace's key: ${JSON.stringify(ran)}`);
        const batches = await post(reeve, hash, 16, 100);
        const single = await post(reeve, hash, 64, 1);
        figure({
            name: 'durable usage events, 100 in a request',
            value: `${batches.rate.toFixed(0)}/s, ${batches.cpu_us_per_event.toFixed(1)} µs each, request p99 ${(batches.p99_us / 1000).toFixed(0)} ms`,
            target: '≥ 20000/s',
            peer: `without HTTP ${billing.events_per_second}/s (${billing.cpu_us_per_event} µs); the store alone ${storeRate}/s`,
            met: batches.rate >= 20000,
            data: { run: batches, billing, store, disk_sync_ms: disk },
        });
        figure({
            name: 'durable usage events, one in a request, 64 at once',
            value: `${single.rate.toFixed(0)}/s, ${single.cpu_us_per_event.toFixed(1)} µs each, request p99 ${(single.p99_us / 1000).toFixed(0)} ms`,
            peer: `without HTTP ${billingSingle.events_per_second}/s (${billingSingle.cpu_us_per_event} µs); a write and fdatasync here takes ${disk.toFixed(2)} ms`,
            data: { run: single, billing: billingSingle },
        });
    } finally {
        await reeve.finish();
    }
}
