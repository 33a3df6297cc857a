// A model gateway that is not there: answers model calls as Anthropic's API does, asks Reeve whose key it is, and
// reports what was used afterwards, in the plain dialect. A prompt "use IN OUT" says how many tokens a call uses, "say
// WORDS" what is answered, "run COMMAND" that a shell's tool is called first.
import http from 'node:http';
import { handler, listen, sha256 } from './lib.mjs';

export class Gateway {
    static async start() {
        const gateway = new Gateway();
        gateway.server = http.createServer(handler((rq, answer) => gateway.on(rq, answer)));
        gateway.url = await listen(gateway.server);
        return gateway;
    }

    constructor() {
        this.isProvider = false; // behind a gateway: asks and reports nothing
        this.calls = []; // what came
        this.answered = []; // model calls: {id, model, tokens}
        this.reported = []; // events that Reeve has acknowledged
        this.verdicts = [];
        this.pending = 0;
        this.sequence = 0;
    }

    /** Where to ask and report. */
    attach(reeve) {
        this.reeve = reeve;
    }

    async on(rq, answer) {
        const parts = [];
        for await (const part of rq) parts.push(part);
        const text = Buffer.concat(parts).toString();
        this.calls.push({ method: rq.method, url: rq.url, headers: rq.headers, text });
        this.pending++;
        try {
            if (rq.method === 'HEAD') answer.writeHead(200).end();
            else await this.call(rq, answer, JSON.parse(text));
        } catch (e) {
            this.failed = e;
            if (!answer.headersSent) answer.writeHead(500).end();
        } finally {
            this.pending--;
        }
    }

    post(path, body) {
        return this.reeve.api('POST', `/v1/gateways/main/${path}`, {
            key: null,
            headers: { authorization: `Bearer ${this.reeve.gatewaySecret}` },
            body,
        });
    }

    report(events) {
        return this.post('usage', { events });
    }

    async call(rq, answer, body) {
        const key = rq.headers['x-api-key'] ?? /^Bearer (.*)$/.exec(rq.headers.authorization ?? '')?.[1] ?? '';
        const verdict = this.isProvider ? undefined : (await this.post('keys/verify', { key })).body;
        if (verdict) this.verdicts.push(verdict);
        const id = `msg_${++this.sequence}`;
        if (verdict && !verdict.valid) {
            answer.writeHead(401, { 'content-type': 'application/json' }).end('{"type":"error","error":{"type":"authentication_error"}}');
            return;
        }
        const asked = lastText(body);
        const [input, output] = (/use (\d+) (\d+)/.exec(asked) ?? [0, 12, 5]).slice(1).map(Number);
        if (rq.url.startsWith('/v1/messages/count_tokens')) {
            answer.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ input_tokens: input }));
            return;
        }
        const words = /say ([^\n]*)/.exec(asked)?.[1] ?? 'to be sure';
        const command = body.tools?.some((tool) => tool.name === 'Bash') ? /^run ([^\n]*)/m.exec(asked)?.[1] : undefined;
        const block = command
            ? { type: 'tool_use', id: `toolu_${this.sequence}`, name: 'Bash', input: { command, description: 'as asked' } }
            : { type: 'text', text: words };
        const stop = { stop_reason: command ? 'tool_use' : 'end_turn', stop_sequence: null };
        const message = { id, type: 'message', role: 'assistant', model: body.model };
        if (body.stream) {
            answer.writeHead(200, { 'content-type': 'text/event-stream' });
            const event = (data) => answer.write(`event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`);
            const delta = (it) => event({ type: 'content_block_delta', index: 0, delta: it });
            event({ type: 'message_start', message: { ...message, content: [], stop_reason: null, stop_sequence: null, usage: { input_tokens: input, output_tokens: 1 } } });
            event({ type: 'content_block_start', index: 0, content_block: command ? { ...block, input: {} } : { ...block, text: '' } });
            if (command) delta({ type: 'input_json_delta', partial_json: JSON.stringify(block.input) });
            else for (const word of words.match(/ ?[^ ]+/g)) delta({ type: 'text_delta', text: word });
            event({ type: 'content_block_stop', index: 0 });
            event({ type: 'message_delta', delta: stop, usage: { input_tokens: input, output_tokens: output } });
            event({ type: 'message_stop' });
            answer.end();
        } else {
            answer.writeHead(200, { 'content-type': 'application/json' });
            answer.end(JSON.stringify({ ...message, ...stop, content: [block], usage: { input_tokens: input, output_tokens: output } }));
        }
        this.answered.push({ id, model: body.model, tokens: { input, output } });
        if (this.isProvider) return;
        const event = { id, key_hash: sha256(key), model: body.model, time: new Date().toISOString(), tokens: { input, output }, call_type: 'messages' };
        const told = await this.report([event]);
        if (told.status !== 200) throw new Error(`usage: ${told.status} ${told.text}`);
        this.reported.push({ ...event, answer: told.body });
    }

    close() {
        this.server.closeAllConnections();
        this.server.close();
    }
}

/** What was asked last; of a tool's result, that. */
function lastText(body) {
    const { content } = body.messages.findLast((m) => m.role === 'user');
    if (typeof content === 'string') return content;
    // a gateway may have joined what came after a tool's result to it
    const last = content.findLast((part) => part.type === 'tool_result' || (part.type === 'text' && !part.text.startsWith('<system-reminder>')));
    if (last?.type !== 'tool_result') return last?.text ?? '';
    const result = last.content;
    return `say it gave: ${typeof result === 'string' ? result : result.map((part) => part.text ?? '').join(' ')}`;
}
