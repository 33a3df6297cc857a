// What the end-to-end tests stand on: a real Reeve with its own folder, port, tenants and keys; calls to its API; the
// client library; a look at the processes it leaves behind.
//
// A Reeve of a test lives in a folder of its own under the system's temporary folder. Everything that runs for it can
// be told by that folder's name, so cleaning up ends those processes, one by one, and no others.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
export const root = path.resolve(here, '../..');
export const reeveBinary = path.resolve(process.env.REEVE_BIN ?? path.join(root, 'build/reeve'));
export const isLong = (process.env.REEVE_LONG ?? '') !== '' && process.env.REEVE_LONG !== '0';
// A sanitized or busy machine is slower, never wrong: every deadline is multiplied.
export const slow = Number(process.env.E2E_SLOW ?? (reeveBinary.includes('san') ? 4 : 1));

/** Where the sandboxes of the suite that runs are: `local`, or `docker` with an engine; set by run.mjs. */
export const target = { provider: 'local', engine: undefined };

// --- small things ---------------------------------------------------------------------------------------------------

/** A server's handler for `on(rq, answer)`: a client that goes away in the middle of its request, as one that is killed
 *  does, is no failure; anything else is. */
export const handler = (on) => (rq, answer) =>
    on(rq, answer).catch((e) => {
        answer.destroy();
        if (e.code !== 'ECONNRESET') throw e;
    });

export class Skip extends Error {}
export function skip(reason) {
    throw new Skip(reason);
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Calls `look` until it gives something true, and gives that; fails after `ms` with what was waited for. */
export async function until(what, ms, look) {
    const end = Date.now() + ms * slow;
    for (;;) {
        const got = await look();
        if (got) return got;
        if (Date.now() > end) throw new Error(`waited ${ms * slow} ms for: ${what}`);
        await sleep(25);
    }
}

/** The promise, or a failure after `ms`. */
export async function within(ms, what, promise) {
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`not within ${ms * slow} ms: ${what}`)), ms * slow);
    });
    try {
        return await Promise.race([promise, late]);
    } finally {
        clearTimeout(timer);
    }
}

/** A reproducible random source; `seed` is printed by whoever makes one. */
export function random(seed) {
    let state = seed >>> 0;
    const next = () => {
        state = (state + 0x6d2b79f5) >>> 0;
        let x = Math.imul(state ^ (state >>> 15), state | 1);
        x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
        return ((x ^ (x >>> 14)) >>> 0) / 4294967296;
    };
    return { below: (n) => Math.floor(next() * n), pick: (list) => list[Math.floor(next() * list.length)] };
}

export const sha256 = (text) => createHash('sha256').update(text).digest('hex');

/** A service key of known text: always the same for the same name. */
export function keyText(name) {
    const letters = 'abcdefghijklmnopqrstuvwxyz234567';
    const bytes = createHash('sha256').update(`id ${name}`).digest();
    let id = '';
    for (let i = 0; i < 16; i++) id += letters[bytes[i] & 31];
    return `rvk_${id}_${createHash('sha256').update(`secret ${name}`).digest('base64url')}`;
}
const keyHash = (name) => `sha256:${sha256(keyText(name))}`;

/** A port that nobody has, for a process that cannot choose one itself. */
export function freePort() {
    return new Promise((resolve, reject) => {
        const server = net.createServer();
        server.on('error', reject);
        server.listen(0, '127.0.0.1', () => {
            const { port } = server.address();
            server.close(() => resolve(port));
        });
    });
}

/** Has a server listen on a port of its own; gives its address as a URL. */
export function listen(server) {
    return new Promise((resolve, reject) => {
        server.on('error', reject);
        server.listen(0, '127.0.0.1', () => resolve(`http://127.0.0.1:${server.address().port}`));
    });
}

/** Runs `reeve …` to its end, without holding up whoever else is served here. */
export function runReeve(args, env = {}) {
    return new Promise((resolve, reject) => {
        const child = spawn(reeveBinary, args, { env: { PATH: process.env.PATH, HOME: process.env.HOME ?? '/', ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
        let out = '';
        let err = '';
        child.stdout.on('data', (d) => (out += d));
        child.stderr.on('data', (d) => (err += d));
        child.on('error', reject);
        child.on('close', (code, signal) => resolve({ code, signal, out, err }));
    });
}

/** Decimal text as a count of 1e-18. */
export function units(decimal) {
    const m = /^(-?)(\d+)(?:\.(\d{1,18}))?$/.exec(decimal);
    if (!m) throw new Error(`not a decimal: ${decimal}`);
    const value = BigInt(m[2] + (m[3] ?? '').padEnd(18, '0'));
    return m[1] === '-' ? -value : value;
}

/** Several texts that are equal as amounts are equal here. */
export function decimal(value) {
    const sign = value < 0n ? '-' : '';
    const digits = (value < 0n ? -value : value).toString().padStart(19, '0');
    const fraction = digits.slice(-18).replace(/0+$/, '');
    return sign + digits.slice(0, -18) + (fraction === '' ? '' : `.${fraction}`);
}

/** Rows of an RFC 4180 text as objects of its header. */
export function parseCsv(text) {
    const rows = [];
    let row = [];
    let cell = '';
    let quoted = false;
    for (let i = 0; i < text.length; i++) {
        const c = text[i];
        if (quoted) {
            if (c !== '"') cell += c;
            else if (text[i + 1] === '"') cell += text[++i];
            else quoted = false;
        } else if (c === '"') quoted = true;
        else if (c === ',') {
            row.push(cell);
            cell = '';
        } else if (c === '\n') {
            row.push(cell.replace(/\r$/, ''));
            rows.push(row);
            row = [];
            cell = '';
        } else cell += c;
    }
    if (cell !== '' || row.length > 0) throw new Error('the last line is not ended');
    const header = rows.shift();
    return rows.map((cells) => {
        if (cells.length !== header.length) throw new Error(`a row of ${cells.length} cells, ${header.length} expected`);
        return Object.fromEntries(cells.map((value, i) => [header[i], value]));
    });
}

// --- what the machine has -------------------------------------------------------------------------------------------

function agentBinary() {
    const places = [process.env.REEVE_AGENT_BINARY, path.join(root, 'build/sandbox-agent')];
    const found = places.find((p) => p && fs.existsSync(p));
    return found ? path.resolve(found) : undefined;
}

/** Skips, with the reason, when sandboxes cannot run here. */
export function needSandboxes() {
    if (!fs.existsSync(reeveBinary)) throw new Error(`${reeveBinary} does not exist: make build/reeve, or set REEVE_BIN`);
    const which = spawnSync('bwrap', ['--version'], { encoding: 'utf8' });
    if (which.error) skip('bwrap is not installed');
    if (!agentBinary()) skip('the sandbox-agent server is missing: build/sandbox-agent, or REEVE_AGENT_BINARY');
    const user = process.getuid() === 0 ? [] : ['--unshare-user'];
    const probe = spawnSync('bwrap', [...user, '--unshare-pid', '--unshare-net', '--ro-bind', '/', '/', '--proc', '/proc', 'true'], {
        encoding: 'utf8',
    });
    if (probe.status !== 0) skip(`bubblewrap cannot make sandboxes here: ${probe.stderr.trim()}`);
}

/** Skips when agents, which are Node.js programs here, could not run inside. */
export function needNodeInside() {
    const real = fs.realpathSync(process.execPath);
    if (!real.startsWith('/usr/')) skip(`node is ${real}: only what is under /usr is visible in a sandbox`);
}

/** The client library as npm gives it, unmodified. */
export async function clientLibrary() {
    const folder = path.join(root, 'build/e2e/node_modules');
    if (!fs.existsSync(path.join(folder, 'sandbox-agent'))) {
        const made = spawnSync(path.join(here, 'install'), { stdio: ['ignore', 'inherit', 'inherit'] });
        if (made.status !== 0) throw new Error('tests/e2e/install failed');
    }
    const entry = (name) => {
        const it = JSON.parse(fs.readFileSync(path.join(folder, name, 'package.json')));
        return import(pathToFileURL(path.join(folder, name, it.exports['.'].import ?? it.main)));
    };
    return { ...(await entry('sandbox-agent')), WebSocket: (await entry('ws')).WebSocket };
}

// --- processes ------------------------------------------------------------------------------------------------------

function readProcess(pid) {
    const read = (name) => {
        try {
            return fs.readFileSync(`/proc/${pid}/${name}`, 'utf8');
        } catch {
            return '';
        }
    };
    const stat = read('stat');
    if (stat === '') return undefined;
    const after = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return { pid, state: after[0], parent: Number(after[1]), args: read('cmdline').split('\0').slice(0, -1), read };
}

function readAll() {
    const all = new Map();
    for (const name of fs.readdirSync('/proc')) {
        if (!/^\d+$/.test(name)) continue;
        const it = readProcess(Number(name));
        if (it && it.state !== 'Z') all.set(it.pid, it);
    }
    return all;
}

/** Those that `isOurs` says, and their children; never this process or one that it stems from. */
export function processesWhere(isOurs) {
    const all = readAll();
    for (let pid = process.pid; pid > 0; ) {
        const parent = all.get(pid)?.parent ?? 0;
        all.delete(pid);
        pid = parent;
    }
    const found = new Map();
    for (const it of all.values()) if (it.pid !== 1 && isOurs(it)) found.set(it.pid, it);
    for (let more = true; more; ) {
        more = false;
        for (const it of all.values())
            if (!found.has(it.pid) && found.has(it.parent)) {
                found.set(it.pid, it);
                more = true;
            }
    }
    return [...found.values()];
}

function mountNamespace(pid) {
    try {
        return fs.readlinkSync(`/proc/${pid}/ns/mnt`);
    } catch {
        return '';
    }
}

/** Every process that belongs to a folder of a test: named on its command line, mounted into its own view of files, or
 *  a child of such. What is mounted for everybody says nothing about anybody. */
export function processesOf(mark) {
    const everybodys = mountNamespace('self');
    return processesWhere((it) => {
        if (it.args.some((a) => a.includes(mark))) return true;
        const own = mountNamespace(it.pid);
        return own !== '' && own !== everybodys && it.read('mountinfo').includes(mark);
    });
}

// --- Reeve ----------------------------------------------------------------------------------------------------------

/** What destroy() must be called on, whatever happens. */
export const alive = new Set();

/** Whatever a test leaves behind, also one that was broken off; all but what is `kept`. */
export function endEverything(kept) {
    for (const it of [...alive]) if (it !== kept) it.destroy();
}

export class Reeve {
    /** A running Reeve. `edit` changes its configuration, an object as the YAML file has it, before the start;
     *  it is also given the folder where that file stands; with an `engine` its sandboxes are containers. */
    static async start({ edit, gateway, tag, engine = target.provider === 'docker' ? target.engine : undefined } = {}) {
        if (!engine) needSandboxes();
        const reeve = new Reeve(tag ?? 'e2e');
        alive.add(reeve);
        try {
            reeve.gatewayUrl = gateway ?? 'http://127.0.0.1:1';
            reeve.init();
            reeve.config = reeve.starter(await freePort());
            edit?.(reeve.config, reeve.folder);
            if (engine) reeve.onDocker(engine);
            await reeve.run();
        } catch (e) {
            reeve.destroy();
            throw e;
        }
        return reeve;
    }

    constructor(tag) {
        this.folder = fs.mkdtempSync(path.join(os.tmpdir(), `reeve-${tag}-`));
        this.mark = path.basename(this.folder);
        this.file = path.join(this.folder, 'reeve.yaml');
        this.log = []; // parsed lines
        this.text = ''; // what is not JSON: a sanitizer's report, say
        this.runs = 0;
    }

    command(...args) {
        const made = spawnSync(reeveBinary, args, { encoding: 'utf8', timeout: 60000 });
        if (made.error) throw made.error;
        return made;
    }

    init() {
        const made = this.command('init', this.folder, '--listen', '127.0.0.1:0', '--gateway', this.gatewayUrl);
        if (made.status !== 0) throw new Error(`reeve init: ${made.status} ${made.stderr}`);
        this.gatewaySecret = fs.readFileSync(path.join(this.folder, 'gateway.secret'), 'utf8').trim();
    }

    /** Two tenants with a key of each role. JSON is YAML: the file is written by JSON.stringify. */
    starter(port) {
        this.url = `http://127.0.0.1:${port}`;
        const keys = (tenant, more = []) => [
            ...['owner', 'member', 'viewer'].map((role) => ({
                name: role,
                role,
                namespaces: ['*'],
                hash: keyHash(`${tenant} ${role}`),
            })),
            ...more,
        ];
        return {
            listen: `127.0.0.1:${port}`,
            public_url: this.url,
            data_dir: 'data',
            store: 'sqlite',
            keys: [{ name: 'operations', role: 'owner', hash: keyHash('fleet owner') }],
            providers: { local: { kind: 'local', agent_binary: agentBinary() } },
            gateways: { main: { kind: 'plain', url: this.gatewayUrl, secret: 'file:gateway.secret' } },
            prices: { file: 'prices.yaml', unpriced: 'deny' },
            templates: { coding: { providers: ['local'], server: { agents: ['mock'], env: { TZ: 'UTC' } } } },
            tenants: {
                acme: {
                    gateway: 'main',
                    templates: ['coding'],
                    keys: keys('acme', [
                        { name: 'alices', role: 'owner', namespaces: ['alice'], hash: keyHash('acme alices') },
                        { name: 'bobs', role: 'member', namespaces: ['bob'], hash: keyHash('acme bobs') },
                    ]),
                },
                globex: { gateway: 'main', templates: ['coding'], keys: keys('globex') },
            },
        };
    }

    /** What was meant for sandboxes on this host, in containers. */
    onDocker(engine) {
        this.config.providers = { docker: { kind: 'docker', endpoint: engine.endpoint, agent_binary: agentBinary() } };
        for (const template of Object.values(this.config.templates)) {
            template.providers = template.providers.map((name) => (name === 'local' ? 'docker' : name));
            template.image ??= 'reeve/agent:latest';
        }
    }

    writeConfig() {
        const beside = `${this.file}.new`;
        fs.writeFileSync(beside, JSON.stringify(this.config, null, 2) + '\n', { mode: 0o600 });
        fs.renameSync(beside, this.file);
    }

    /** Starts the process and waits until it is ready. */
    async run() {
        this.writeConfig();
        const from = this.log.length;
        const child = spawn(reeveBinary, ['serve', '-c', this.file, '--log', 'json'], {
            stdio: ['ignore', 'ignore', 'pipe'],
            cwd: this.folder,
        });
        this.child = child;
        this.runs++;
        child.ended = new Promise((resolve) => child.on('exit', (code, signal) => resolve({ code, signal })));
        child.on('error', (e) => (this.text += `${e.message}\n`));
        let rest = '';
        child.stderr.setEncoding('utf8');
        child.stderr.on('data', (part) => {
            const lines = (rest + part).split('\n');
            rest = lines.pop();
            for (const line of lines) {
                try {
                    this.log.push(JSON.parse(line));
                } catch {
                    this.text += `${line}\n`;
                }
            }
            if (this.log.length > 20000) this.log.splice(0, 10000);
        });
        await until('the log event `ready`', 30000, () => {
            if (this.log.slice(from).some((line) => line.event === 'ready')) return true;
            if (child.exitCode !== null || child.signalCode !== null)
                throw new Error(`reeve ended at its start: ${child.exitCode ?? child.signalCode}\n${this.tail()}`);
            return false;
        });
    }

    get pid() {
        return this.child.pid;
    }

    tail(n = 30) {
        const lines = this.log.slice(-n).map((line) => JSON.stringify(line));
        return [...lines, this.text.slice(-4000)].join('\n');
    }

    /** What a process that ended by itself left, else nothing: a crash is found even when no request noticed. */
    crash() {
        const { child } = this;
        if (!child || this.isEnding || (child.exitCode === null && child.signalCode === null)) return undefined;
        return `reeve ended by itself (${child.exitCode ?? child.signalCode})\n${this.tail()}`;
    }

    /** Ends the process and waits for it. SIGTERM drains, and must end well. */
    async kill(signal = 'SIGTERM') {
        const { child } = this;
        if (child.exitCode !== null || child.signalCode !== null)
            throw new Error(this.crash() ?? 'reeve had ended before');
        this.isEnding = true;
        child.kill(signal);
        const end = await within(60000, `reeve ends after ${signal}`, child.ended);
        if (signal === 'SIGTERM' && end.code !== 0)
            throw new Error(`reeve ended with ${end.code ?? end.signal} after SIGTERM\n${this.tail()}`);
        return end;
    }

    async restart(signal = 'SIGTERM') {
        await this.kill(signal);
        this.isEnding = false;
        await this.run();
    }

    // --- calls

    key(name) {
        return keyText(name);
    }

    /** One request; `key` is a name such as "acme owner". A JSON answer is in `body`, `text` is the answer as it came. */
    api(method, target, { key = 'acme owner', body, raw, headers = {}, timeout = 60000, signal } = {}) {
        const h = { ...headers };
        if (key) h.authorization = `Bearer ${key.startsWith('rvk_') ? key : keyText(key)}`;
        let payload = raw;
        if (body !== undefined) {
            payload = JSON.stringify(body);
            h['content-type'] = 'application/json';
        }
        if (payload !== undefined && h['content-length'] === undefined && h['transfer-encoding'] === undefined)
            h['content-length'] = Buffer.byteLength(payload);
        return this.request(method, target, h, payload, timeout * slow, signal);
    }

    request(method, target, headers, payload, timeout, signal) {
        return new Promise((resolve, reject) => {
            const rq = http.request(`${this.url}${target}`, { method, headers, timeout, signal, agent: this.agent ?? false }, (answer) => {
                const parts = [];
                answer.on('data', (part) => parts.push(part));
                answer.on('error', reject);
                answer.on('aborted', () => reject(new Error(`${method} ${target}: the answer was cut`)));
                answer.on('end', () => {
                    const bytes = Buffer.concat(parts);
                    const text = bytes.toString();
                    let body;
                    if (/^application\/(problem\+)?json/.test(answer.headers['content-type'] ?? '') && text !== '') {
                        try {
                            body = JSON.parse(text);
                        } catch {
                            reject(new Error(`${method} ${target}: ${answer.statusCode}, not JSON: ${text.slice(0, 300)}`));
                            return;
                        }
                    }
                    resolve({ status: answer.statusCode, headers: answer.headers, body, text, bytes });
                });
            });
            rq.on('timeout', () => rq.destroy(new Error(`${method} ${target}: no answer in ${timeout} ms`)));
            rq.on('error', reject);
            rq.end(payload);
        });
    }

    /** A ready workspace, or a failure that shows the answer. */
    async workspace(place, { key = 'acme owner', body } = {}) {
        const made = await this.api('PUT', `/v1/workspaces/${place}?wait=60s`, { key, body });
        if (made.body?.state !== 'ready') throw new Error(`PUT ${place}: ${made.status} ${made.text}\n${this.tail(10)}`);
        return made.body;
    }

    async remove(place, { key = 'acme owner' } = {}) {
        const gone = await this.api('DELETE', `/v1/workspaces/${place}?wait=60s`, { key });
        if (![200, 202, 204, 404].includes(gone.status)) throw new Error(`DELETE ${place}: ${gone.status} ${gone.text}`);
    }

    async workspaces(tenant) {
        const items = [];
        for (let after; ; ) {
            const page = await this.api('GET', `/v1/workspaces?limit=500${after ? `&after=${encodeURIComponent(after)}` : ''}`, {
                key: `${tenant} owner`,
            });
            if (page.status !== 200) throw new Error(`list: ${page.status} ${page.text}`);
            items.push(...page.body.items);
            after = page.body.next;
            if (!after) return items;
        }
    }

    /** Runs a program inside, to its end. */
    async inside(place, command, args = [], { key = 'acme owner', timeoutMs = 30000, env } = {}) {
        const ran = await this.api('POST', `/w/${place}/v1/processes/run`, {
            key,
            body: { command, args, timeoutMs, ...(env ? { env } : {}) },
        });
        if (ran.status !== 200) throw new Error(`run ${command}: ${ran.status} ${ran.text}`);
        return ran.body;
    }

    async put(place, file, content, { key = 'acme owner' } = {}) {
        const written = await this.api('PUT', `/w/${place}/v1/fs/file?path=${encodeURIComponent(file)}`, {
            key,
            raw: content,
            headers: { 'content-type': 'application/octet-stream' },
        });
        if (written.status !== 200) throw new Error(`write ${file}: ${written.status} ${written.text}`);
    }

    /** Puts the scripted agent into a workspace, the way a user would install a program. */
    async agentInto(place, options = {}) {
        const folder = '.local/share/sandbox-agent/bin/agent_processes';
        const made = await this.api('POST', `/w/${place}/v1/fs/mkdir?path=${encodeURIComponent(folder)}`, options);
        if (made.status !== 200) throw new Error(`mkdir: ${made.status} ${made.text}`);
        await this.put(place, `${folder}/mock-acp.mjs`, fs.readFileSync(path.join(here, 'mock-acp.mjs')), options);
        const node = fs.realpathSync(process.execPath);
        await this.put(place, `${folder}/mock-acp`, `#!/bin/sh\nexec ${node} "$(dirname "$0")/mock-acp.mjs"\n`, options);
        const ran = await this.inside(place, '/bin/chmod', ['755', `/home/agent/${folder}/mock-acp`], options);
        if (ran.exitCode !== 0) throw new Error(`chmod: ${JSON.stringify(ran)}`);
    }

    /** The client library, connected to a workspace through the proxy. */
    async connect(place, { key = 'acme owner', ...more } = {}) {
        this.library ??= await clientLibrary();
        return this.library.SandboxAgent.connect({ baseUrl: `${this.url}/w/${place}`, token: keyText(key), ...more });
    }

    // --- the end

    processes() {
        return processesOf(this.mark).filter((it) => it.pid !== this.child?.pid);
    }

    /** Names of sandboxes whose first process is there. */
    sandboxes() {
        const names = new Set();
        for (const it of this.processes()) {
            const at = it.args.findIndex((a) => a.endsWith('/reeve-init'));
            if (at >= 0 && it.args[at + 1] === 'run') names.add(it.args.at(-1));
        }
        return [...names];
    }

    /** Deletes all workspaces, ends Reeve well, and fails if anything of it is left. */
    async finish() {
        try {
            const crash = this.crash();
            if (crash) throw new Error(crash);
            for (const tenant of Object.keys(this.config.tenants))
                await Promise.all(
                    (await this.workspaces(tenant)).map((w) => this.remove(`${w.namespace}/${w.name}`, { key: `${tenant} owner` })),
                );
            await this.kill('SIGTERM');
            if (/Sanitizer|runtime error/.test(this.text)) throw new Error(`a sanitizer's report:\n${this.text}`);
            await until('no process is left', 10000, () => this.processes().length === 0).catch((e) => {
                throw new Error(`${e.message}: ${this.processes().map((p) => `${p.pid} ${p.args.join(' ').slice(0, 200)}`).join('\n')}`);
            });
        } finally {
            this.destroy();
        }
    }

    /** Ends whatever is left, at once, and removes the folder (E2E_KEEP=1: leaves it). */
    destroy() {
        alive.delete(this);
        this.isEnding = true;
        if (this.child?.exitCode === null && this.child?.signalCode === null) this.child.kill('SIGKILL');
        for (let round = 0; round < 10; round++) {
            const left = processesOf(this.mark);
            if (left.length === 0) break;
            for (const it of left) {
                try {
                    process.kill(it.pid, 'SIGKILL');
                } catch {
                    // it was quicker
                }
            }
            Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
        }
        if (process.env.E2E_KEEP) console.log(`      kept: ${this.folder}`);
        else fs.rmSync(this.folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    }
}

// --- prompts --------------------------------------------------------------------------------------------------------

/** Prompts a session and gives what the agent said, in order, and how it ended. The library hands over its last events
 *  shortly after the prompt's answer, so `count` messages are waited for. */
export async function prompt(session, text, { count = 1, ms = 30000 } = {}) {
    const said = [];
    const off = session.onEvent((event) => {
        const update = event.payload?.params?.update;
        if (event.sender === 'agent' && update?.sessionUpdate === 'agent_message_chunk') said.push(update.content.text);
    });
    try {
        const answer = await within(ms, `prompt "${text.slice(0, 60)}"`, session.prompt([{ type: 'text', text }]));
        if (count > 0) await until(`${count} messages for "${text.slice(0, 60)}", so far ${said.length}`, 5000, () => said.length >= count);
        return { stopReason: answer.stopReason, said };
    } finally {
        off();
    }
}

/** The error that a promise ends with; fails when it does not. */
export async function failure(promise) {
    let value;
    try {
        value = await promise;
    } catch (e) {
        return e;
    }
    throw new Error(`expected a failure, got ${JSON.stringify(value)?.slice(0, 300)}`);
}
