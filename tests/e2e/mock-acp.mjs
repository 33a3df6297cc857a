// A scripted agent: speaks ACP (JSON-RPC, one message a line) on its standard streams and does what the last text of
// a prompt says:
//
//   echo TEXT            answers TEXT
//   stream N [EVERY [SIZE]]  N updates "0" … "N-1", in order; a pause of 5 ms after each EVERY; blanks up to SIZE bytes
//   permission           asks for permission and answers with what was chosen
//   sleep MS             ends after MS, or at once when the session is cancelled
//   die                  exits in the middle of the prompt
//   model MODEL IN OUT   a model call through ANTHROPIC_BASE_URL that uses IN and OUT tokens; answers "STATUS BODY"
//   model-stream …       the same, as a stream of server-sent events
//   post JSON            {path, headers, body, leave}: a POST through ANTHROPIC_BASE_URL with the key; answers "STATUS
//                        BODY"; with `leave` it goes away after the first piece of the answer, and answers "left"
//   env NAME             answers the variable's value
//   http URL             fetches it; answers "STATUS" or "error CODE"
//   pid                  answers its own process id
//
// It runs inside a sandbox, so it is one file that needs nothing but Node.js.
import { createInterface } from 'node:readline';
import http from 'node:http';
import https from 'node:https';

let sequence = 0;
const asked = new Map(); // our requests: id -> resolve
const running = new Map(); // session id -> Set of AbortController

function send(message) {
    return new Promise((resolve) => process.stdout.write(JSON.stringify({ jsonrpc: '2.0', ...message }) + '\n', resolve));
}

function ask(method, params) {
    const id = `mock-${++sequence}`;
    return new Promise((resolve) => {
        asked.set(id, resolve);
        send({ id, method, params });
    });
}

function say(sessionId, text) {
    return send({
        method: 'session/update',
        params: { sessionId, update: { sessionUpdate: 'agent_message_chunk', content: { type: 'text', text } } },
    });
}

function request(url, options, body) {
    return new Promise((resolve) => {
        const library = url.startsWith('https:') ? https : http;
        const rq = library.request(url, { timeout: 5000, ...options }, (answer) => {
            const parts = [];
            answer.on('data', (part) => parts.push(part));
            answer.on('end', () => resolve({ status: answer.statusCode, body: Buffer.concat(parts).toString() }));
            answer.on('error', (e) => resolve({ error: e.code ?? e.message }));
        });
        rq.on('timeout', () => rq.destroy(Object.assign(new Error('timeout'), { code: 'TIMEOUT' })));
        rq.on('error', (e) => resolve({ error: e.code ?? e.message }));
        rq.end(body);
    });
}

async function callModel(model, input, output, stream) {
    const base = process.env.ANTHROPIC_BASE_URL ?? 'http://127.0.0.1:8700';
    const body = JSON.stringify({
        model,
        max_tokens: Number(output),
        stream,
        messages: [{ role: 'user', content: `use ${input} ${output}` }],
    });
    const answer = await request(
        `${base}/v1/messages`,
        {
            method: 'POST',
            timeout: 30000,
            headers: {
                'content-type': 'application/json',
                'content-length': Buffer.byteLength(body),
                'x-api-key': process.env.ANTHROPIC_API_KEY ?? '',
                'anthropic-version': '2023-06-01',
            },
        },
        body,
    );
    return answer.error !== undefined ? `error ${answer.error}` : `${answer.status} ${answer.body}`;
}

function sleep(ms, signal) {
    return new Promise((resolve) => {
        const timer = setTimeout(() => resolve('end_turn'), ms);
        signal.addEventListener('abort', () => {
            clearTimeout(timer);
            resolve('cancelled');
        });
    });
}

function postAny({ path, headers = {}, body, leave = false }) {
    const base = process.env.ANTHROPIC_BASE_URL ?? 'http://127.0.0.1:8700';
    const text = JSON.stringify(body);
    const options = {
        method: 'POST',
        timeout: 60000,
        headers: {
            'content-type': 'application/json',
            'content-length': Buffer.byteLength(text),
            'x-api-key': process.env.ANTHROPIC_API_KEY ?? '',
            ...headers,
        },
    };
    if (!leave) return request(`${base}${path}`, options, text).then((a) => (a.error !== undefined ? `error ${a.error}` : `${a.status} ${a.body}`));
    return new Promise((resolve) => {
        const rq = http.request(`${base}${path}`, options, (answer) => {
            answer.on('error', () => {});
            answer.once('data', () => {
                rq.destroy();
                resolve('left');
            });
        });
        rq.on('error', (e) => resolve(`error ${e.code ?? e.message}`));
        rq.end(text);
    });
}

async function perform(sessionId, text, signal) {
    const space = text.indexOf(' ');
    const command = space < 0 ? text : text.slice(0, space);
    const rest = space < 0 ? '' : text.slice(space + 1);
    switch (command) {
        case 'echo':
            await say(sessionId, rest);
            return 'end_turn';
        case 'stream': {
            const [n, every, size] = rest.split(' ').map(Number);
            for (let i = 0; i < n; i++) {
                if (every && i > 0 && i % every === 0) await new Promise((resolve) => setTimeout(resolve, 5));
                await say(sessionId, String(i).padEnd(size ?? 0));
            }
            return 'end_turn';
        }
        case 'permission': {
            const answer = await ask('session/request_permission', {
                sessionId,
                toolCall: { toolCallId: `call-${sequence}`, title: 'write a file', kind: 'edit', status: 'pending' },
                options: [
                    { optionId: 'yes', name: 'Allow', kind: 'allow_once' },
                    { optionId: 'no', name: 'Reject', kind: 'reject_once' },
                ],
            });
            await say(sessionId, JSON.stringify(answer.result?.outcome ?? answer.error));
            return 'end_turn';
        }
        case 'sleep':
            return sleep(Number(rest), signal);
        case 'die':
            process.exit(Number(rest || 3));
            break;
        case 'model':
        case 'model-stream': {
            const [model, input, output] = rest.split(' ');
            await say(sessionId, await callModel(model, input, output, command === 'model-stream'));
            return 'end_turn';
        }
        case 'post':
            await say(sessionId, await postAny(JSON.parse(rest)));
            return 'end_turn';
        case 'env':
            await say(sessionId, process.env[rest] ?? '(unset)');
            return 'end_turn';
        case 'http': {
            const answer = await request(rest, {});
            await say(sessionId, answer.error !== undefined ? `error ${answer.error}` : `${answer.status}`);
            return 'end_turn';
        }
        case 'pid':
            await say(sessionId, String(process.pid));
            return 'end_turn';
        default:
            await say(sessionId, `unknown command: ${command}`);
            return 'refusal';
    }
}

async function prompt(id, params) {
    const { sessionId } = params;
    const texts = params.prompt.filter((part) => part.type === 'text');
    const abort = new AbortController();
    if (!running.has(sessionId)) {
        await send({ id, error: { code: -32602, message: `no session ${sessionId}` } });
        return;
    }
    running.get(sessionId).add(abort);
    const stopReason = await perform(sessionId, texts.at(-1)?.text ?? '', abort.signal);
    running.get(sessionId).delete(abort);
    await send({ id, result: { stopReason } });
}

function receive(message) {
    const { id, method, params } = message;
    if (method === undefined) {
        asked.get(id)?.(message);
        asked.delete(id);
        return;
    }
    switch (method) {
        case 'initialize':
            send({ id, result: { protocolVersion: 1, agentCapabilities: {}, authMethods: [] } });
            break;
        case 'session/new': {
            const sessionId = `mock-${process.pid}-${++sequence}`;
            running.set(sessionId, new Set());
            send({ id, result: { sessionId } });
            break;
        }
        case 'session/prompt':
            prompt(id, params);
            break;
        case 'session/cancel':
            for (const abort of running.get(params.sessionId) ?? []) abort.abort();
            break;
        default:
            if (id !== undefined) send({ id, error: { code: -32601, message: `unknown method ${method}` } });
    }
}

createInterface({ input: process.stdin }).on('line', (line) => receive(JSON.parse(line))).on('close', () => process.exit(0));
