// PUT of a workspace that is ready: what a backend does before each use. One caller, then sixteen. The peer answers without looking at
// anything: what it shows beyond microseconds is the machine's, not findOrCreate's.
import { Reeve } from '../e2e/lib.mjs';
import { load, LOAD_CPU, median, pin, SERVER_CPU } from './measure.mjs';

const ROUNDS = 3;

export default async function (figure) {
    const reeve = await Reeve.start({ tag: 'bench' });
    try {
        await reeve.workspace('bench/dev');
        for (const p of reeve.processes()) pin(p.pid, LOAD_CPU);
        pin(reeve.pid, SERVER_CPU);
        for (const connections of [1, 16]) {
            const headers = { Authorization: `Bearer ${reeve.key('acme owner')}` };
            const runs = { find: [], health: [] };
            for (let i = 0; i < ROUNDS; i++) {
                runs.health.push(await load(reeve.pid, `${reeve.url}/healthz`, { connections, forSeconds: 2 }));
                runs.find.push(await load(reeve.pid, `${reeve.url}/v1/workspaces/bench/dev`, { connections, forSeconds: 2, script: 'find.lua', headers }));
            }
            const of = (kind, what) => median(runs[kind].map((r) => r[what]));
            const ms = (kind, what) => (of(kind, what) / 1000).toFixed(2);
            figure({
                name: `findOrCreate of a ready workspace, ${connections} at once`,
                value: `p50 ${ms('find', 'p50_us')} ms, p99 ${ms('find', 'p99_us')} ms, ${of('find', 'cpu_us').toFixed(1)} µs each`,
                target: 'p50 ≤ 1 ms, p99 ≤ 5 ms',
                peer: `GET /healthz of the same Reeve: p50 ${ms('health', 'p50_us')} ms, p99 ${ms('health', 'p99_us')} ms`,
                met: of('find', 'p50_us') <= 1000 && of('find', 'p99_us') <= 5000,
                data: { runs },
            });
        }
    } finally {
        await reeve.finish();
    }
}
