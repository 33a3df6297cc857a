// A Docker engine of a test's own: a real dockerd and containerd with every folder, socket and control group of theirs
// below one temporary folder, without bridge or iptables, so that several can run at once and nothing of the machine's
// own engine is touched. Also the image that workspaces start from, made by `reeve image build`.
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { alive, processesWhere, root, runReeve, skip, until, within } from './lib.mjs';

const groups = () => ['', ...fs.readdirSync('/sys/fs/cgroup')].map((name) => path.join('/sys/fs/cgroup', name));

/** Skips, with the reason, when an engine cannot be started here. */
export function needDocker() {
    if (process.getuid() !== 0) skip('an engine of its own needs root');
    for (const name of ['dockerd', 'containerd', 'runc'])
        if (spawnSync(name, ['--version'], { stdio: 'ignore' }).error) skip(`${name} is not installed`);
}

export class Docker {
    /** A running engine. `dataBytes` puts its data on a disk of that size. */
    static async start({ liveRestore = false, dataBytes } = {}) {
        needDocker();
        const docker = new Docker();
        alive.add(docker);
        try {
            docker.liveRestore = liveRestore;
            if (dataBytes) docker.small(dataBytes);
            await docker.run();
        } catch (e) {
            docker.destroy();
            throw e;
        }
        return docker;
    }

    constructor() {
        this.folder = fs.mkdtempSync(path.join(os.tmpdir(), 'reeve-docker-'));
        this.mark = path.basename(this.folder);
        this.socket = path.join(this.folder, 'docker.sock');
        this.endpoint = `unix://${this.socket}`;
        this.text = '';
        for (const name of ['data', 'exec', 'containerd']) fs.mkdirSync(path.join(this.folder, name));
    }

    /** A disk of its own for the data, which can then be full. */
    small(bytes) {
        const made = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', path.join(this.folder, 'data')], { encoding: 'utf8' });
        if (made.status !== 0) throw new Error(`mount: ${made.stderr}`);
    }

    start(name, args) {
        const child = spawn(name, args, { stdio: ['ignore', 'pipe', 'pipe'], cwd: this.folder });
        const keep = (part) => (this.text = (this.text + part).slice(-200000));
        child.stdout.on('data', keep);
        child.stderr.on('data', keep);
        child.ended = new Promise((resolve) => child.on('exit', (code, signal) => resolve({ code, signal })));
        child.on('error', (e) => (this.text += `${name}: ${e.message}\n`));
        return child;
    }

    /** containerd, which stays when the engine is killed, then the engine. */
    async run() {
        const at = (name) => path.join(this.folder, name);
        if (!this.containerd) {
            fs.writeFileSync(
                at('containerd.toml'),
                `version = 2\nroot = "${at('containerd/root')}"\nstate = "${at('containerd/state')}"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n` +
                    `[grpc]\naddress = "${at('containerd.sock')}"\n[ttrpc]\naddress = "${at('containerd.sock')}.ttrpc"\n`,
            );
            this.containerd = this.start('containerd', ['--config', at('containerd.toml'), '--log-level', 'error']);
            await until('containerd listens', 30000, () => fs.existsSync(at('containerd.sock')) || this.over(this.containerd, 'containerd'));
        }
        fs.writeFileSync(at('dockerd.json'), '{}\n'); // else the machine's own would be read
        fs.rmSync(at('pid'), { force: true });
        this.child = this.start('dockerd', [
            ...['--containerd', at('containerd.sock'), '--data-root', at('data'), '--exec-root', at('exec'), '--pidfile', at('pid')],
            ...['-H', this.endpoint, '--config-file', at('dockerd.json'), '--cgroup-parent', `/${this.mark}`, '--log-level', 'warn'],
            ...['--iptables=false', '--ip6tables=false', '--bridge=none', '--shutdown-timeout', '5'],
            ...(this.liveRestore ? ['--live-restore'] : []),
        ]);
        this.isEnding = false;
        await until('the engine answers', 60000, async () => {
            this.over(this.child, 'dockerd');
            return (await this.api('GET', '/_ping').catch(() => undefined))?.status === 200;
        });
    }

    over(child, name) {
        if (child.exitCode !== null || child.signalCode !== null)
            throw new Error(`${name} ended at its start: ${child.exitCode ?? child.signalCode}\n${this.tail()}`);
        return false;
    }

    /** What an engine that ended by itself left, else nothing. */
    crash() {
        if (this.isEnding || (this.child.exitCode === null && this.child.signalCode === null)) return undefined;
        return `the engine ended by itself (${this.child.exitCode ?? this.child.signalCode})\n${this.tail()}`;
    }

    tail() {
        return this.text.slice(-3000);
    }

    /** One call; a JSON answer is in `body`. */
    api(method, target, body) {
        return new Promise((resolve, reject) => {
            const payload = body === undefined ? undefined : JSON.stringify(body);
            const headers = payload === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) };
            const rq = http.request({ socketPath: this.socket, method, path: target, headers, timeout: 120000, agent: false }, (answer) => {
                const parts = [];
                answer.on('data', (part) => parts.push(part));
                answer.on('error', reject);
                answer.on('end', () => {
                    const text = Buffer.concat(parts).toString();
                    let parsed;
                    try {
                        parsed = JSON.parse(text);
                    } catch {
                        parsed = undefined; // a stream, or nothing
                    }
                    resolve({ status: answer.statusCode, headers: answer.headers, body: parsed, text });
                });
            });
            rq.on('timeout', () => rq.destroy(new Error(`${method} ${target}: no answer`)));
            rq.on('error', reject);
            rq.end(payload);
        });
    }

    async get(target) {
        const got = await this.api('GET', target);
        if (got.status !== 200) throw new Error(`GET ${target}: ${got.status} ${got.text}`);
        return got.body;
    }

    containers() {
        return this.get('/containers/json?all=1');
    }

    inspect(id) {
        return this.get(`/containers/${id}/json`);
    }

    async volumes() {
        return (await this.get('/volumes')).Volumes ?? [];
    }

    /** `reeve image build` against this engine; gives {code, out, err}. */
    build(...args) {
        return runReeve(['image', 'build', ...args, ...(args.includes('--endpoint') ? [] : ['--endpoint', this.endpoint])]);
    }

    /** The image of the tests, with the scripted agent's needs. */
    async image(tag = 'reeve/agent:latest', ...args) {
        const made = await this.build('--rootfs', rootfs(), '--tag', tag, '--json', ...args);
        if (made.code !== 0) throw new Error(`reeve image build: ${made.code} ${made.err}`);
        return JSON.parse(made.out);
    }

    /** The engine dies, or ends, and its containerd does not. */
    async kill(signal = 'SIGKILL') {
        this.isEnding = true;
        this.wasKilled ||= signal === 'SIGKILL';
        this.child.kill(signal);
        return within(60000, `dockerd ends after ${signal}`, this.child.ended);
    }

    /** The two that were started, the shims that speak with this containerd, and what runs below them. */
    processes() {
        const started = [this.child, this.containerd].filter((c) => c && c.exitCode === null && c.signalCode === null).map((c) => c.pid);
        const address = path.join(this.folder, 'containerd.sock');
        return processesWhere(
            (it) => started.includes(it.pid) || (path.basename(it.args[0] ?? '').startsWith('containerd-shim') && it.args.includes(address)),
        );
    }

    /** The same, but for shims with nothing below them when the engine was killed: it forgets at times what it was
     *  about to start, and with it the shim. No sandbox lives in it. */
    left() {
        const all = this.processes();
        const isEmptyShim = (it) => path.basename(it.args[0] ?? '').startsWith('containerd-shim') && !all.some((other) => other.parent === it.pid);
        return this.wasKilled ? all.filter((it) => !isEmptyShim(it)) : all;
    }

    mounts() {
        return fs
            .readFileSync('/proc/self/mounts', 'utf8')
            .split('\n')
            .map((line) => line.split(' ')[1] ?? '')
            .filter((at) => at.includes(this.mark));
    }

    /** Ends the engine well, and fails when anything of it is left. */
    async finish() {
        try {
            const crash = this.crash();
            if (crash) throw new Error(crash);
            for (const c of await this.containers()) await this.api('DELETE', `/containers/${c.Id}?force=1&v=1`);
            await this.kill('SIGTERM');
            this.containerd.kill('SIGTERM');
            await within(30000, 'containerd ends', this.containerd.ended);
            await until('no process is left', 10000, () => this.left().length === 0).catch((e) => {
                throw new Error(`${e.message}: ${this.left().map((p) => `${p.pid} ${p.args.join(' ').slice(0, 200)}`).join('\n')}`);
            });
        } finally {
            this.destroy();
        }
    }

    /** Ends whatever is left, at once; unmounts and removes. */
    destroy() {
        alive.delete(this);
        const pause = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
        for (let round = 0; round < 20; round++) {
            const left = this.processes();
            if (left.length === 0) break;
            for (const it of left) {
                try {
                    process.kill(it.pid, 'SIGKILL');
                } catch {
                    // it was quicker
                }
            }
            pause();
        }
        // what is mounted last lies on top
        for (const at of this.mounts().reverse()) spawnSync('umount', ['-l', at]);
        for (const group of groups()) {
            const ours = path.join(group, this.mark);
            if (!fs.existsSync(ours)) continue;
            for (const name of fs.readdirSync(ours, { withFileTypes: true })) if (name.isDirectory()) tryRemove(path.join(ours, name.name));
            tryRemove(ours);
        }
        fs.rmSync(this.folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    }
}

function tryRemove(group) {
    try {
        fs.rmdirSync(group);
    } catch {
        // a process in it is still ending
    }
}

/** The archive of a small Debian with Node.js; made once. */
export function rootfs(...packages) {
    const made = spawnSync(path.join(root, 'scripts/rootfs'), packages, { encoding: 'utf8', maxBuffer: 1 << 24 });
    if (made.status !== 0) throw new Error(`scripts/rootfs: ${made.status} ${made.stderr}`);
    return path.join(root, made.stdout.trim());
}
