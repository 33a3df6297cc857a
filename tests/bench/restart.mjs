// From the start of the process to serving, with 100,000 workspaces in the store: copies of one that sleeps, put there while no
// controller runs (bench_fill). The peer is the same start with that one alone. Ends by kill -9, so the store opens as after a crash.
import fs from 'node:fs';
import path from 'node:path';
import { Reeve } from '../e2e/lib.mjs';
import { built, cpuOf, memoryOf, output } from './measure.mjs';

const COUNT = 100000;
const TARGET_MS = 5000;

async function timed(reeve) {
    await reeve.kill('SIGKILL');
    reeve.isEnding = false;
    const from = process.hrtime.bigint();
    await reeve.run(); // to the log event `ready`
    const answer = await reeve.api('GET', '/v1/workspaces?limit=1');
    const took = Number(process.hrtime.bigint() - from) / 1e6;
    if (answer.status !== 200) throw new Error(`list: ${answer.status} ${answer.text}`);
    return { ms: took, cpu_ms: cpuOf(reeve.pid) / 1000, rss: memoryOf(reeve.pid).rss };
}

export default async function (figure) {
    const reeve = await Reeve.start({ tag: 'bench' });
    try {
        await reeve.workspace('bench/dev');
        const slept = await reeve.api('POST', '/v1/workspaces/bench/dev/suspend?wait=20s');
        if (slept.body?.state !== 'suspended') throw new Error(`suspend: ${slept.status} ${slept.text}`);
        const one = await timed(reeve);
        await reeve.kill('SIGTERM');
        const store = path.join(reeve.folder, 'data', fs.readdirSync(path.join(reeve.folder, 'data')).find((name) => name.endsWith('.db')));
        await output(built('bench_fill'), [store, reeve.file, 'acme', COUNT]);
        reeve.isEnding = false;
        await reeve.run();
        const many = await timed(reeve);
        const metrics = (await reeve.api('GET', '/metrics', { key: 'fleet owner' })).text;
        const seen = Number(/^reeve_workspaces\{state="suspended"\} (\d+)/m.exec(metrics)[1]);
        if (seen !== COUNT + 1) throw new Error(`${seen} workspaces after the start, ${COUNT + 1} expected`);
        figure({
            name: `start to serving with ${COUNT} workspaces`,
            value: `${(many.ms / 1000).toFixed(2)} s, ${((many.rss - one.rss) / COUNT).toFixed(0)} bytes of memory each`,
            target: '≤ 5 s',
            peer: `with one workspace ${(one.ms / 1000).toFixed(2)} s`,
            met: many.ms <= TARGET_MS,
            data: { many, one },
        });
    } finally {
        reeve.destroy(); // not one by one
    }
}
