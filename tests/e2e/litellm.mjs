// The real LiteLLM proxy, as deploy/litellm sets it up, and a provider for it that is not there: it answers as
// Anthropic's and OpenAI's APIs do. The last text of a call says what it uses and what becomes of it:
//
//   use IN OUT [READ [WRITE]]   (12 5 when it does not say) IN prompt tokens in all, of them READ from and WRITE to the cache; OUT answer tokens
//   … fail N                    the first N calls with this very text are answered with 500
//   … slow                      a stream with a pause before each of its words, until its reader leaves
//   … search N                  N web searches were made besides
//   … item {…}                  an item in the output of /v1/responses, beside its message
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import { freePort, handler, listen, root, sleep, slow, until, within } from './lib.mjs';

const words = 40;

export class Provider {
    static async start() {
        const provider = new Provider();
        provider.server = http.createServer(handler((rq, answer) => provider.on(rq, answer)));
        provider.url = await listen(provider.server);
        return provider;
    }

    constructor() {
        this.calls = []; // {url, text, headers, body}
        this.left = 0; // streams whose reader went away
        this.failures = new Map(); // text -> answered with 500 so far
        this.sequence = 0;
    }

    close() {
        this.server.closeAllConnections();
        this.server.close();
    }

    async on(rq, answer) {
        const parts = [];
        for await (const part of rq) parts.push(part);
        const body = JSON.parse(Buffer.concat(parts).toString());
        const last = body.messages?.at(-1).content ?? body.input ?? '';
        const text = typeof last === 'string' ? last : last.map((part) => part.text ?? part).join(' ');
        this.calls.push({ url: rq.url, text, headers: rq.headers, body });
        const [, input, output, read, write] = (/use (\d+) (\d+)(?: (\d+))?(?: (\d+))?/.exec(text) ?? [0, 12, 5]).map((n) => Number(n ?? 0));
        const failures = Number(/fail (\d+)/.exec(text)?.[1] ?? 0);
        const failed = this.failures.get(text) ?? 0;
        if (failed < failures) {
            this.failures.set(text, failed + 1);
            this.json(answer, 500, { error: { type: 'api_error', message: 'the provider has a bad day' } });
            return;
        }
        const call = { id: `msg_${++this.sequence}`, model: body.model, input, output, read, write, search: Number(/search (\d+)/.exec(text)?.[1] ?? 0) };
        call.pause = text.includes('slow') ? 100 : 0;
        if (rq.url.startsWith('/v1/messages/count_tokens')) this.json(answer, 200, { input_tokens: input });
        else if (rq.url.startsWith('/v1/messages')) await this.messages(answer, call, body.stream);
        else if (rq.url.startsWith('/v1/chat/completions')) await this.chat(answer, call, body);
        else if (rq.url.startsWith('/v1/responses')) await this.responses(answer, call, body.stream, [...text.matchAll(/item (\{.*?\}) ?(?=$|item)/g)].map((m) => JSON.parse(m[1])));
        else if (rq.url.startsWith('/v1/embeddings')) this.embeddings(answer, call);
        else this.json(answer, 404, { error: { type: 'not_found', message: rq.url } });
    }

    json(answer, status, body) {
        answer.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    }

    /** Sends events, with a pause between them; stops when the reader has left. */
    async stream(answer, pause, events) {
        let isGone = false;
        answer.on('close', () => (isGone = !answer.writableEnded));
        answer.writeHead(200, { 'content-type': 'text/event-stream' });
        for (const event of events) {
            if (pause) await sleep(pause);
            if (isGone) break;
            answer.write(event);
        }
        if (isGone) this.left++;
        else answer.end();
    }

    async messages(answer, { id, model, input, output, read, write, search, pause }, isStream) {
        const usage = {
            input_tokens: input - read - write,
            cache_read_input_tokens: read,
            cache_creation_input_tokens: write,
            output_tokens: output,
            ...(search ? { server_tool_use: { web_search_requests: search } } : {}),
        };
        if (!isStream) {
            this.json(answer, 200, { id, type: 'message', role: 'assistant', model, content: [{ type: 'text', text: 'to be sure' }], stop_reason: 'end_turn', usage });
            return;
        }
        const event = (data) => `event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`;
        await this.stream(answer, pause, [
            event({ type: 'message_start', message: { id, type: 'message', role: 'assistant', model, content: [], usage: { ...usage, output_tokens: 1 } } }),
            event({ type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } }),
            ...Array.from({ length: words }, () => event({ type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'word ' } })),
            event({ type: 'content_block_stop', index: 0 }),
            event({ type: 'message_delta', delta: { stop_reason: 'end_turn' }, usage: { output_tokens: output } }),
            event({ type: 'message_stop' }),
        ]);
    }

    async chat(answer, { id, model, input, output, read, pause }, body) {
        const usage = {
            prompt_tokens: input,
            completion_tokens: output,
            total_tokens: input + output,
            prompt_tokens_details: { cached_tokens: read },
            completion_tokens_details: { reasoning_tokens: Math.floor(output / 2) },
        };
        const message = { role: 'assistant', content: 'to be sure' };
        if (!body.stream) {
            this.json(answer, 200, { id, object: 'chat.completion', created: 1, model, choices: [{ index: 0, message, finish_reason: 'stop' }], usage });
            return;
        }
        const chunk = (choices, more = {}) => `data: ${JSON.stringify({ id, object: 'chat.completion.chunk', created: 1, model, choices, ...more })}\n\n`;
        await this.stream(answer, pause, [
            ...Array.from({ length: words }, () => chunk([{ index: 0, delta: { content: 'word ' }, finish_reason: null }])),
            chunk([{ index: 0, delta: {}, finish_reason: 'stop' }]),
            ...(body.stream_options?.include_usage ? [chunk([], { usage })] : []),
            'data: [DONE]\n\n',
        ]);
    }

    async responses(answer, { id, model, input, output, read, pause }, isStream, items) {
        const response = {
            id: `resp_${id}`,
            object: 'response',
            created_at: 1,
            status: 'completed',
            model,
            output: [{ type: 'message', id, role: 'assistant', status: 'completed', content: [{ type: 'output_text', text: 'to be sure', annotations: [] }] }, ...items],
            parallel_tool_calls: true,
            tool_choice: 'auto',
            tools: [],
            usage: { input_tokens: input, output_tokens: output, total_tokens: input + output, input_tokens_details: { cached_tokens: read }, output_tokens_details: { reasoning_tokens: 0 } },
        };
        if (!isStream) {
            this.json(answer, 200, response);
            return;
        }
        const event = (type, sequence_number, more) => `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number, ...more })}\n\n`;
        await this.stream(answer, pause, [
            event('response.created', 0, { response: { ...response, status: 'in_progress', output: [], usage: null } }),
            event('response.output_text.delta', 1, { item_id: id, output_index: 0, content_index: 0, delta: 'to be sure' }),
            event('response.completed', 2, { response }),
        ]);
    }

    embeddings(answer, { model, input }) {
        this.json(answer, 200, {
            object: 'list',
            model,
            data: [{ object: 'embedding', index: 0, embedding: [0.25, -0.5] }],
            usage: { prompt_tokens: input, total_tokens: input },
        });
    }
}

/** Stands between LiteLLM and Reeve: passes on, remembers the reports, and is unreliable on demand. What comes to
 *  /stock is kept and goes nowhere. */
export class Relay {
    static async start() {
        const relay = new Relay();
        relay.server = http.createServer((rq, answer) => relay.on(rq, answer).catch(() => answer.destroy()));
        relay.url = await listen(relay.server);
        return relay;
    }

    constructor() {
        this.reports = []; // events that were to be delivered, in the order of their coming
        this.answers = []; // what Reeve said of each report
        this.stock = []; // events as LiteLLM's own callback sends them
        this.isUsageDown = false; // 503 to reports
        this.isAdmissionDown = false; // silence to questions
        this.losesAnswers = 0; // so many reports go on, and nobody hears what became of them
    }

    close() {
        this.server.closeAllConnections();
        this.server.close();
    }

    async on(rq, answer) {
        const parts = [];
        for await (const part of rq) parts.push(part);
        const body = Buffer.concat(parts);
        if (rq.url === '/stock') {
            this.stock.push(...JSON.parse(body.toString()));
            answer.writeHead(200).end('{}');
            return;
        }
        const isUsage = rq.url.endsWith('/usage');
        if (isUsage && this.isUsageDown) {
            answer.writeHead(503, { 'content-type': 'application/json' }).end('{"detail":"not now"}');
            return;
        }
        if (rq.url.includes('/admission/') && this.isAdmissionDown) {
            answer.destroy();
            return;
        }
        if (isUsage) {
            const text = (rq.headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body).toString();
            this.reports.push(...text.split('\n').filter(Boolean).map((line) => JSON.parse(line)));
        }
        const got = await new Promise((resolve, reject) => {
            const headers = { ...rq.headers, host: this.target.host };
            const on = http.request({ host: this.target.hostname, port: this.target.port, method: rq.method, path: rq.url, headers, agent: false }, (a) => {
                const pieces = [];
                a.on('data', (piece) => pieces.push(piece));
                a.on('end', () => resolve({ status: a.statusCode, type: a.headers['content-type'], body: Buffer.concat(pieces) }));
                a.on('error', reject);
            });
            on.on('error', reject);
            on.end(body);
        });
        if (isUsage) this.answers.push(JSON.parse(got.body.toString()));
        if (isUsage && this.losesAnswers > 0) {
            this.losesAnswers--;
            answer.destroy();
            return;
        }
        answer.writeHead(got.status, { 'content-type': got.type ?? 'application/json', 'content-length': got.body.length }).end(got.body);
    }

    /** To a Reeve. */
    attach(reeve) {
        this.target = new URL(reeve.url);
        this.gatewaySecret = reeve.gatewaySecret;
    }
}

/** The folder of the installed proxy; installs it when it is not there. */
export function installation() {
    const made = spawnSync(path.join(root, 'tests/e2e/install-litellm'), { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
    if (made.status !== 0) throw new Error('tests/e2e/install-litellm failed');
    return made.stdout.trim();
}

export class LiteLLM {
    /** A folder with the example's two files, and an address; not started. `edit` changes the configuration's text. */
    static async prepare({ provider, edit = (text) => text }) {
        const lite = new LiteLLM();
        lite.home = installation();
        lite.folder = fs.mkdtempSync(path.join(os.tmpdir(), 'reeve-litellm-'));
        lite.provider = provider;
        const from = path.join(root, 'deploy/litellm');
        fs.copyFileSync(path.join(from, 'reeve_litellm.py'), path.join(lite.folder, 'reeve_litellm.py'));
        fs.writeFileSync(path.join(lite.folder, 'config.yaml'), edit(fs.readFileSync(path.join(from, 'config.yaml'), 'utf8')));
        lite.port = await freePort();
        lite.url = `http://127.0.0.1:${lite.port}`;
        lite.masterKey = `sk-${randomBytes(24).toString('hex')}`;
        lite.text = '';
        return lite;
    }

    /** Starts it and waits until it is alive. `reeve` is where it asks and reports, a Reeve or a Relay. */
    async start(reeve, gateway = 'main') {
        const url = `${reeve.url}/v1/gateways/${gateway}`;
        const child = spawn(path.join(this.home, 'bin/python'), ['-m', 'litellm.proxy.proxy_cli', '--config', 'config.yaml', '--host', '127.0.0.1', '--port', String(this.port), '--telemetry', 'False'], {
            cwd: this.folder,
            stdio: ['ignore', 'pipe', 'pipe'],
            env: {
                PATH: process.env.PATH,
                HOME: this.folder,
                LITELLM_LOCAL_MODEL_COST_MAP: 'True',
                NO_PROXY: '*',
                PYTHONDONTWRITEBYTECODE: '1',
                LITELLM_MASTER_KEY: this.masterKey,
                REEVE_GATEWAY_URL: url,
                REEVE_ADMISSION_URL: `${url}/admission`,
                REEVE_GATEWAY_SECRET: reeve.gatewaySecret,
                ANTHROPIC_API_KEY: 'provider-key-a',
                OPENAI_API_KEY: 'provider-key-o',
                ANTHROPIC_API_BASE: this.provider.url,
                OPENAI_API_BASE: `${this.provider.url}/v1`,
            },
        });
        this.child = child;
        this.isEnding = false;
        child.ended = new Promise((resolve) => child.on('exit', (code, signal) => resolve({ code, signal })));
        child.on('error', (e) => (this.text += `${e.message}\n`));
        for (const out of [child.stdout, child.stderr]) {
            out.setEncoding('utf8');
            out.on('data', (part) => (this.text = (this.text + part).slice(-200000)));
        }
        await until('LiteLLM is alive', 240000, async () => {
            if (child.exitCode !== null || child.signalCode !== null) throw new Error(`LiteLLM ended at its start\n${this.tail()}`);
            return (await this.request('GET', '/health/liveliness').catch(() => undefined))?.status === 200;
        });
    }

    tail() {
        return this.text.slice(-1500);
    }

    request(method, target, { headers = {}, body, timeout = 60000 } = {}) {
        return new Promise((resolve, reject) => {
            const text = body === undefined ? undefined : JSON.stringify(body);
            const rq = http.request(`${this.url}${target}`, { method, timeout: timeout * slow, agent: false, headers: { ...headers, ...(text ? { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) } : {}) } }, (answer) => {
                const parts = [];
                answer.on('data', (part) => parts.push(part));
                answer.on('error', reject);
                answer.on('end', () => {
                    const got = Buffer.concat(parts).toString();
                    let parsed;
                    try {
                        parsed = JSON.parse(got);
                    } catch {
                        // a stream, or not JSON
                    }
                    resolve({ status: answer.statusCode, headers: answer.headers, text: got, body: parsed });
                });
            });
            rq.on('timeout', () => rq.destroy(new Error(`${method} ${target}: no answer`)));
            rq.on('error', reject);
            rq.end(text);
        });
    }

    /** Files of reports that are not delivered. */
    spooled() {
        const folder = path.join(this.folder, 'reeve-spool');
        return fs.existsSync(folder) ? fs.readdirSync(folder) : [];
    }

    async kill(signal = 'SIGKILL') {
        this.child.kill(signal);
        return within(60000, `LiteLLM ends after ${signal}`, this.child.ended);
    }

    async close() {
        if (this.child && this.child.exitCode === null && this.child.signalCode === null) await this.kill('SIGKILL');
        fs.rmSync(this.folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    }
}
