// The benchmark: `node tests/bench/run.mjs [NAME…]`, see scripts/bench. Not a test: it prints figures, and says which miss their target,
// but only a figure that could not be measured makes it fail.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { endEverything, root } from '../e2e/lib.mjs';
import { endChildren, stolen } from './measure.mjs';

const parts = ['proxy', 'tls', 'usage', 'litellm', 'find', 'cold', 'docker', 'streams', 'egress', 'restart'];
const wanted = process.argv.slice(2);
for (const w of wanted)
    if (!parts.includes(w)) {
        console.error(`no part "${w}"; there are: ${parts.join(', ')}`);
        process.exit(2);
    }

process.on('exit', () => {
    endChildren();
    endEverything();
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1));

const version = (file, args) => {
    const made = spawnSync(file, args, { encoding: 'utf8', env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` } });
    return `${made.stdout ?? ''}${made.stderr ?? ''}`.trim().split('\n')[0];
};
const result = {
    date: new Date().toISOString(),
    commit: version('git', ['-C', root, 'describe', '--always', '--dirty']),
    machine: {
        processors: os.cpus().length,
        model: os.cpus()[0]?.model,
        memory_gib: Number((os.totalmem() / 2 ** 30).toFixed(1)),
        kernel: `${os.type()} ${os.release()} ${os.arch()}`,
        load: os.loadavg().map((v) => Number(v.toFixed(2))),
    },
    nginx: version('nginx', ['-v']),
    figures: [],
    failed: [],
};

/** One row: what, its value as text, the target as text, the peer's value as text, whether the target is met (undefined: there is none), all numbers. */
function figure({ name, value, target = '', peer = '', met, data = {} }) {
    result.figures.push({ name, value, target, peer, met, ...data });
    console.error(`  ${name}: ${value}${target ? `  (target ${target})` : ''}${peer ? `  [${peer}]` : ''}`);
}

const steal = stolen();
for (const part of parts) {
    if (wanted.length > 0 && !wanted.includes(part)) continue;
    console.error(`${part} …`);
    try {
        await (await import(`./${part}.mjs`)).default(figure);
    } catch (e) {
        result.failed.push({ part, error: String(e?.stack ?? e) });
        console.error(`  could not be measured: ${e?.stack ?? e}`);
    } finally {
        endChildren();
        endEverything();
    }
}
result.steal = Number(stolen(steal).toFixed(4));

const m = result.machine;
const rows = [
    ['figure', 'measured', 'target', '', 'peer, same run'],
    ...result.figures.map((f) => [f.name, f.value, f.target, f.met === undefined ? '' : f.met ? 'met' : 'MISSED', f.peer]),
];
const widths = rows[0].map((_, i) => Math.max(...rows.map((r) => r[i].length)));
console.log(`\nReeve ${result.commit}, ${result.date}`);
console.log(`${m.processors} processors (${m.model}), ${m.memory_gib} GiB, ${m.kernel}, load at the start ${m.load.join(' ')}, steal ${(result.steal * 100).toFixed(1)} %`);
console.log(`peer: ${result.nginx}\n`);
for (const [i, r] of rows.entries()) {
    console.log(r.map((cell, k) => (k === r.length - 1 ? cell : cell.padEnd(widths[k]))).join('  '));
    if (i === 0) console.log(widths.map((w) => '-'.repeat(w)).join('  '));
}
const file = path.join(root, 'build/bench.json');
fs.mkdirSync(path.dirname(file), { recursive: true });
fs.writeFileSync(file, JSON.stringify(result, null, 2) + '\n');
console.log(`\nall numbers: build/bench.json${result.failed.length ? `; not measured: ${result.failed.map((f) => f.part).join(', ')}` : ''}`);
process.exit(result.failed.length === 0 ? 0 : 1);
