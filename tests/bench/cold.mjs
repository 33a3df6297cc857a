// From a PUT of a workspace that does not exist to its answer "ready". The peer is the same server in a bare bubblewrap, with
// namespaces, /usr and certificates as the local provider has them (a network of its own, too), from fork to its health's 200: bench_bare.
// They alternate.
import fs from 'node:fs';
import path from 'node:path';
import { Reeve } from '../e2e/lib.mjs';
import { allCpus, built, median, output, pin, quantile, spread } from './measure.mjs';

const TIMES = 20;

/** How long each state lasted, of a workspace that became ready. */
function phases(reeve, id) {
    const at = {};
    for (const line of reeve.log) if (line.event === 'workspace.state' && line.id === id) at[line.state] ??= Date.parse(line.ts);
    return { provisioning: at.bootstrapping - at.provisioning, bootstrapping: at.ready - at.bootstrapping };
}

export default async function (figure) {
    const reeve = await Reeve.start({ tag: 'bench' });
    try {
        pin(reeve.pid, allCpus);
        await reeve.workspace('bench/first');
        const binary = fs.realpathSync(reeve.config.providers.local.agent_binary);
        const took = [];
        const bare = [];
        const parts = [];
        await output(built('bench_bare'), [binary]); // warm
        for (let i = 0; i < TIMES; i++) {
            const from = process.hrtime.bigint();
            const made = await reeve.workspace(`bench/w${i}`);
            took.push(Number(process.hrtime.bigint() - from) / 1e6);
            await reeve.api('GET', '/healthz'); // the log's lines have come
            parts.push(phases(reeve, made.id));
            bare.push(Number(await output(built('bench_bare'), [binary])));
            await reeve.remove(`bench/w${i}`);
        }
        const [mine, theirs] = [median(took), median(bare)];
        const part = (name) => median(parts.map((p) => p[name]));
        figure({
            name: `cold findOrCreate to ready, median of ${TIMES}`,
            value: `${mine.toFixed(0)} ms (${spread(took, 0)}; provisioning ${part('provisioning')}, bootstrapping ${part('bootstrapping')})`,
            target: 'peer + 20 ms',
            peer: `bare bubblewrap ${theirs.toFixed(0)} ms (${spread(bare, 0)})`,
            met: mine <= theirs + 20,
            data: { took_ms: took, bare_ms: bare, phases: parts, p90_ms: quantile(took, 0.9) },
        });
    } finally {
        await reeve.finish();
    }
}
