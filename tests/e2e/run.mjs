// Runs the end-to-end tests: `node tests/e2e/run.mjs [FILE[@docker][/WORDS]…]`, FILE as in FILE.test.mjs, WORDS a part
// of a test's name; with @docker its sandboxes are containers of an engine that is started for the run. Ends with "N passed, N failed, N skipped" and exit code 0 only without failures. REEVE_LONG=1 also runs
// what takes minutes; REEVE_REQUIRE=all makes a skip a failure.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Docker } from './docker.mjs';
import { endEverything, isLong, slow, Skip, target, within } from './lib.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const wanted = process.argv.slice(2);
const files = fs
    .readdirSync(here)
    .filter((name) => name.endsWith('.test.mjs'))
    .map((name) => name.slice(0, -'.test.mjs'.length))
    .sort();

const fileOf = (w) => w.split('/')[0];
for (const w of wanted)
    if (!files.includes(fileOf(w).replace(/@docker$/, ''))) {
        console.error(`no ${fileOf(w)}.test.mjs; there are: ${files.join(', ')}`);
        process.exit(2);
    }
// without a wish everything once, on this host
const suites = wanted.length === 0 ? files : [...new Set(wanted.map(fileOf))];

const isChosen = (file, name) =>
    wanted.length === 0 || wanted.some((w) => w === file || (w.startsWith(`${file}/`) && name.includes(w.slice(file.length + 1))));

const count = { passed: 0, failed: 0, skipped: 0 };
let stray = []; // rejections that nobody awaited: the library's "connection is broken for good"

process.on('unhandledRejection', (e) => stray.push(e));
process.on('exit', () => endEverything());
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'])
    process.on(signal, () => {
        console.log(`broken off by ${signal}`);
        process.exit(1);
    });

function report(kind, file, name, ms, detail) {
    count[kind]++;
    const word = { passed: 'ok  ', failed: 'FAIL', skipped: 'skip' }[kind];
    console.log(`${word}  ${file}: ${name} (${ms} ms)${detail ? `\n      ${String(detail).replaceAll('\n', '\n      ')}` : ''}`);
}

async function attempt(file, name, ms, fn) {
    const from = Date.now();
    stray = [];
    try {
        await within(ms, name, fn());
        if (stray.length > 0) throw new Error(`an unhandled rejection would have ended the client: ${stray[0]?.stack ?? stray[0]}`);
        return { kind: 'passed', ms: Date.now() - from };
    } catch (e) {
        if (e instanceof Skip && process.env.REEVE_REQUIRE !== 'all') return { kind: 'skipped', ms: Date.now() - from, detail: e.message };
        return { kind: 'failed', ms: Date.now() - from, detail: e instanceof Skip ? `skipped: ${e.message}` : e?.stack ?? e };
    }
}

/** The engine and the image that workspaces start from, for all suites that want them. */
async function useDocker() {
    target.provider = 'docker';
    if (target.engine) return;
    const engine = await Docker.start();
    await engine.image();
    target.engine = engine;
}

/** What the suite's Reeve has deleted, the engine no longer has. */
async function isEmpty() {
    const left = [...(await target.engine.containers()).map((c) => c.Names[0]), ...(await target.engine.volumes()).map((v) => v.Name)];
    if (left.length > 0) throw new Error(`left in the engine: ${left.join(' ')}`);
}

for (const file of suites) {
    const suite = { tests: [], before: [], after: [], context: () => '' };
    globalThis.suite = suite;
    await import(`./${file.replace(/@docker$/, '')}.test.mjs?${file}`);
    const chosen = suite.tests.filter((t) => isChosen(file, t.name) && (!t.long || isLong));
    if (chosen.length === 0) continue;
    target.provider = 'local';
    if (file.endsWith('@docker')) {
        suite.before.unshift(useDocker);
        suite.after.push(isEmpty);
    }
    let made = { kind: 'passed' };
    for (const fn of suite.before) if (made.kind === 'passed') made = await attempt(file, 'before', 400000, fn);
    for (const t of chosen) {
        const got = made.kind === 'passed' ? await attempt(file, t.name, t.timeout, t.fn) : made;
        report(got.kind, file, t.name, got.ms, got.kind === 'failed' && got !== made ? `${got.detail}\n${suite.context()}${target.engine?.crash() ?? ''}` : got.detail);
    }
    for (const fn of suite.after) {
        const got = await attempt(file, 'afterwards', 180000, fn);
        if (got.kind === 'failed') report('failed', file, 'afterwards', got.ms, got.detail);
    }
    endEverything(target.engine);
}
if (target.engine) {
    const ended = await attempt('docker', 'the engine ends', 180000, () => target.engine.finish());
    if (ended.kind === 'failed') report('failed', 'docker', 'the engine ends', ended.ms, ended.detail);
}
console.log(`${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped`);
process.exit(count.failed === 0 ? 0 : 1);
