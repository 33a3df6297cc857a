// A model gateway that is not there: answers model calls as Anthropic's API does, asks Reeve whose key it is, and
// reports what was used afterwards, in the plain dialect. A prompt "use IN OUT" says how many tokens a call uses.
import http from 'node:http';
import { sha256 } from './lib.mjs';

export class Gateway {
    static start() {
        const gateway = new Gateway();
        return new Promise((resolve, reject) => {
            gateway.server = http.createServer((rq, answer) => gateway.on(rq, answer));
            gateway.server.on('error', reject);
            gateway.server.listen(0, '127.0.0.1', () => {
                gateway.url = `http://127.0.0.1:${gateway.server.address().port}`;
                resolve(gateway);
            });
        });
    }

    constructor() {
        this.calls = []; // what came
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
            await this.call(rq, answer, JSON.parse(text));
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
        const verdict = await this.post('keys/verify', { key });
        this.verdicts.push(verdict.body);
        const id = `msg_${++this.sequence}`;
        if (!verdict.body.valid) {
            answer.writeHead(401, { 'content-type': 'application/json' }).end('{"type":"error","error":{"type":"authentication_error"}}');
            return;
        }
        const [, input, output] = /use (\d+) (\d+)/.exec(body.messages.at(-1).content).map(Number);
        if (body.stream) {
            answer.writeHead(200, { 'content-type': 'text/event-stream' });
            const event = (data) => answer.write(`event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`);
            event({ type: 'message_start', message: { id, model: body.model, usage: { input_tokens: input, output_tokens: 1 } } });
            for (const word of ['to', ' be', ' sure']) event({ type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: word } });
            event({ type: 'message_delta', usage: { output_tokens: output } });
            event({ type: 'message_stop' });
            answer.end();
        } else {
            answer.writeHead(200, { 'content-type': 'application/json' });
            answer.end(
                JSON.stringify({
                    id,
                    type: 'message',
                    model: body.model,
                    content: [{ type: 'text', text: 'to be sure' }],
                    usage: { input_tokens: input, output_tokens: output },
                }),
            );
        }
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
