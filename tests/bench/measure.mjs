// What the benchmarks stand on: processor time of a process, load by wrk, system calls by strace, quantiles.
//
// Servers get processor 0 and everything else processor 1, so that a server's time is not mixed with its client's. Time is
// read from /proc, counted over all threads: it is what a request costs, whatever the client's speed was.
import { execFile, spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { root, sleep, within } from '../e2e/lib.mjs';

export const here = path.dirname(fileURLToPath(import.meta.url));
export const seconds = Number(process.env.BENCH_SECONDS ?? 4);
export const built = (name) => path.join(root, 'build', process.env.BENCH_FLAVOUR ?? 'gcc-none', 'bench', name);
export const SERVER_CPU = 0;
export const LOAD_CPU = 1;
const ticks = Number(spawnSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }).stdout) || 100;
const run = promisify(execFile);

// --- numbers

export function quantile(values, q) {
    const sorted = [...values].sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
}
export const median = (values) => quantile(values, 0.5);
export const spread = (values, digits = 1) => `${Math.min(...values).toFixed(digits)}–${Math.max(...values).toFixed(digits)}`;

// --- /proc

/** Processor time of all threads so far, in µs. */
export function cpuOf(pid) {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, 'utf8');
    const field = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return ((Number(field[11]) + Number(field[12])) * 1e6) / ticks;
}

/** The part of all processors' time that the hypervisor gave to others since `before`, as a figure from 0 to 1. */
export function stolen(before) {
    const now = fs.readFileSync('/proc/stat', 'utf8').split('\n')[0].trim().split(/\s+/).slice(1, 9).map(Number);
    if (!before) return now;
    const part = now.map((v, i) => v - before[i]);
    return part[7] / Math.max(1, part.reduce((a, b) => a + b));
}

/** Memory of a process in bytes: resident, and its proportional share of it. */
export function memoryOf(pid) {
    const text = fs.readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
    const kib = (name) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)[1]) * 1024;
    return { rss: kib('Rss'), pss: kib('Pss') };
}

/** All threads of a process on these processors, "0" or "0-1". */
export function pin(pid, cpus) {
    spawnSync('taskset', ['-a', '-c', '-p', String(cpus), String(pid)]);
}
export const allCpus = `0-${(await import('node:os')).cpus().length - 1}`;

// --- processes of ours, ended at the end whatever happens

const children = new Set();

export function start(file, args, options = {}) {
    const child = spawn(file, args, { stdio: ['ignore', 'ignore', 'pipe'], ...options });
    child.said = '';
    child.stderr?.on('data', (part) => (child.said = (child.said + part).slice(-65536)));
    child.ended = new Promise((resolve) => {
        child.on('error', (e) => {
            child.said += e.message;
            resolve();
        });
        child.on('exit', resolve);
    });
    child.ended.then(() => children.delete(child));
    children.add(child);
    return child;
}

export async function end(child, signal = 'SIGTERM') {
    if (!child) return;
    if (child.exitCode === null && child.signalCode === null) child.kill(signal);
    await within(20000, `${child.spawnfile} ends`, child.ended);
}

export function endChildren() {
    for (const child of children) child.kill('SIGKILL');
}

/** Output of a program that measures by itself. */
export async function output(file, args) {
    const { stdout } = await run(file, args.map(String), { timeout: 300000, maxBuffer: 1 << 24 });
    return stdout.trim();
}

// --- load

/** One run of wrk on the load's processor: requests, what failed of them, latencies in µs. `script` is a file here, its `args` are what it is told. */
export async function wrk(url, { connections, headers = {}, script = 'report.lua', args = [], forSeconds = seconds }) {
    const head = Object.entries(headers).flatMap(([name, value]) => ['-H', `${name}: ${value}`]);
    const given = [String(LOAD_CPU), 'wrk', '-t1', `-c${connections}`, `-d${forSeconds}s`, '--timeout', '30s', '-s', path.join(here, script), ...head, url, '--', ...args.map(String)];
    const { stdout } = await run('taskset', ['-c', ...given], { timeout: (forSeconds + 60) * 1000, cwd: here });
    const line = stdout.split('\n').find((l) => l.startsWith('REPORT '));
    if (!line) throw new Error(`wrk: ${stdout}`);
    const report = JSON.parse(line.slice(7));
    if (report.failed > 0) throw new Error(`wrk ${url}: ${report.failed} of ${report.requests} requests failed`);
    return report;
}

/** wrk, with what it cost the process `pid`. */
export async function load(pid, url, options) {
    const steal = stolen();
    const cpu = cpuOf(pid);
    const report = await wrk(url, options);
    return { ...report, cpu_us: (cpuOf(pid) - cpu) / report.requests, steal: stolen(steal) };
}

/** System calls of a process for each request of a short run. strace slows it down, so these runs give no times. */
export async function systemCalls(pid, url, options) {
    const tracer = start('strace', ['-f', '-c', '-p', String(pid)]);
    await sleep(700);
    const report = await wrk(url, { ...options, forSeconds: 2 });
    await sleep(200);
    await end(tracer, 'SIGINT');
    const calls = {};
    for (const line of tracer.said.split('\n')) {
        const m = /^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?([a-z_0-9]+)$/.exec(line);
        if (m && m[2] !== 'total') calls[m[2]] = Number(m[1]) / report.requests;
    }
    const total = Object.values(calls).reduce((a, b) => a + b, 0);
    if (total === 0) throw new Error(`strace: ${tracer.said}`);
    const top = Object.entries(calls).sort((a, b) => b[1] - a[1]).filter(([, n]) => n >= 0.03);
    return { total, calls: Object.fromEntries(top), text: top.slice(0, 6).map(([name, n]) => `${name} ${n.toFixed(2)}`).join(', ') };
}
