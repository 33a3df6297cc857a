// Stands in for LiteLLM's key API, which needs a database that the real proxy does not have here. What it is asked is
// checked against the OpenAPI document that a real proxy serves; what it answers has the shapes of LiteLLM 1.106.2.
// Model calls it passes on to a real proxy, if it is given one, when their key is good.
import http from 'node:http';
import { handler, listen, sha256, sleep } from './lib.mjs';

/** Why a value is not what a schema of the document says, or nothing. Members that the schema does not name are wrong. */
export function mismatch(document, schema, value, at = 'body') {
    if (schema.$ref) return mismatch(document, schema.$ref.slice(2).split('/').reduce((o, name) => o[name], document), value, at);
    if (schema.anyOf) {
        const all = schema.anyOf.map((s) => mismatch(document, s, value, at));
        return all.every(Boolean) ? all.join(' and ') : undefined;
    }
    const type = value === null ? 'null' : Array.isArray(value) ? 'array' : Number.isInteger(value) && schema.type === 'integer' ? 'integer' : typeof value;
    if (schema.type && schema.type !== type) return `${at}: ${type}, expected ${schema.type}`;
    if (schema.enum && !schema.enum.includes(value)) return `${at}: ${value}, expected one of ${schema.enum.join(' ')}`;
    if (type === 'array' && schema.items) return value.map((v, i) => mismatch(document, schema.items, v, `${at}[${i}]`)).find(Boolean);
    if (type !== 'object') return undefined;
    const missing = (schema.required ?? []).find((name) => !(name in value));
    if (missing) return `${at}: ${missing} is missing`;
    for (const [name, v] of Object.entries(value)) {
        const of = schema.properties?.[name];
        if (!of && schema.additionalProperties !== true) return `${at}.${name}: not in the document`;
        const wrong = of && mismatch(document, of, v, `${at}.${name}`);
        if (wrong) return wrong;
    }
    return undefined;
}

const failed = (status, message, type) => ({ status, body: { error: { message, type, param: 'None', code: String(status) } } });
const notFound = () => failed(404, 'Key not found.', 'not_found_error');

export class KeyApi {
    static async start(options) {
        const api = new KeyApi(options);
        api.server = http.createServer(handler((rq, answer) => api.on(rq, answer)));
        api.url = await listen(api.server);
        return api;
    }

    constructor({ adminKey, document, proxy }) {
        this.adminKey = adminKey;
        this.proxy = proxy; // its URL
        this.document = document; // of a real proxy
        this.keys = new Map(); // by hash
        this.archive = new Map();
        this.calls = []; // {path, body, status}; status 0: no answer
        this.wrong = []; // what the document does not allow
        this.modes = {}; // by path, "*" for all: away, lost, garbage, 500, 401, slow
        this.generated = 0;
        this.deleted = 0;
    }

    get alive() {
        return [...this.keys.values()].filter((k) => !k.blocked).map((k) => k.token);
    }

    async on(rq, answer) {
        const parts = [];
        for await (const part of rq) parts.push(part);
        const url = new URL(rq.url, this.url);
        const text = Buffer.concat(parts).toString();
        const mode = this.modes[url.pathname] ?? this.modes['*'];
        const call = { path: url.pathname, mode, status: 0 };
        this.calls.push(call);
        if (mode === 'away') return rq.socket.destroy();
        if (this.proxy && !url.pathname.startsWith('/key/')) return this.pass(rq, Buffer.concat(parts), answer);
        if (mode === 'slow') await sleep(1500);
        if (mode === 'garbage') return answer.writeHead(200, { 'content-type': 'text/html' }).end('<html>welcome</html>');
        if (mode === '500') return answer.writeHead(500, { 'content-type': 'text/plain' }).end('Internal Server Error');
        let got;
        try {
            call.body = text === '' ? undefined : JSON.parse(text);
            this.check(rq.method, url, call.body);
            got = this.act(rq, url, call.body, mode);
        } catch (e) {
            this.wrong.push(`${rq.method} ${url.pathname}: ${e.message}`);
            got = failed(422, e.message, 'bad_request_error');
        }
        if (mode === 'lost') return rq.socket.destroy();
        call.status = got.status;
        answer.writeHead(got.status, { 'content-type': 'application/json' }).end(JSON.stringify(got.body));
    }

    pass(rq, body, answer) {
        const key = rq.headers['x-api-key'] ?? /^Bearer (.*)$/.exec(rq.headers.authorization ?? '')?.[1] ?? '';
        const row = this.keys.get(sha256(key));
        if (!row || row.blocked) return answer.writeHead(401, { 'content-type': 'application/json' }).end('{"error":{"type":"auth_error"}}');
        const on = http.request(`${this.proxy}${rq.url}`, { method: rq.method, headers: { ...rq.headers, host: new URL(this.proxy).host }, agent: false }, (got) => {
            answer.writeHead(got.statusCode, { 'content-type': got.headers['content-type'] ?? 'application/json' });
            got.on('error', () => answer.destroy());
            got.pipe(answer);
        });
        on.on('error', () => answer.destroy());
        on.end(body);
        return undefined;
    }

    check(method, url, body) {
        const operation = this.document?.paths[url.pathname]?.[method.toLowerCase()];
        if (!this.document) return;
        if (!operation) throw new Error('the document does not have it');
        for (const name of url.searchParams.keys())
            if (!operation.parameters?.some((p) => p.in === 'query' && p.name === name)) throw new Error(`query ${name}: not in the document`);
        const schema = operation.requestBody?.content['application/json']?.schema;
        if ((body !== undefined) !== (schema !== undefined)) throw new Error('a body where none belongs, or none where one does');
        const wrong = schema && mismatch(this.document, schema, body);
        if (wrong) throw new Error(wrong);
    }

    act(rq, url, body, mode) {
        if (mode === '401' || rq.headers.authorization !== `Bearer ${this.adminKey}`)
            return failed(401, `Authentication Error, Invalid proxy server token passed. Received API Key = ${this.adminKey}`, 'auth_error');
        switch (url.pathname) {
            case '/key/generate':
                return this.generate(body);
            case '/key/block':
            case '/key/unblock':
                return this.block(body.key, url.pathname === '/key/block');
            case '/key/delete':
                return this.remove(body.keys);
            case '/key/info':
                return this.info(url.searchParams.get('key'));
            default:
                return { status: 404, body: { detail: 'Not Found' } };
        }
    }

    generate({ key, key_alias, allowed_routes, metadata, ...more }) {
        if (!(allowed_routes?.length > 0) || !allowed_routes.every((r) => r.startsWith('/v1/'))) throw new Error('a key that may do more than call models');
        if (!key.startsWith('sk-') || key.length < 16) return failed(400, "LiteLLM Virtual Key must start with 'sk-'", 'bad_request_error');
        if (Object.keys(more).some((name) => /budget|limit/.test(name))) throw new Error('a budget of its own');
        if ([...this.keys.values()].some((k) => k.key_alias === key_alias))
            return failed(400, `Key with alias '${key_alias}' already exists. Unique key aliases across all keys are required.`, 'bad_request_error');
        const row = { token: sha256(key), key_alias, metadata, blocked: null };
        this.keys.set(row.token, row);
        this.generated++;
        return { status: 200, body: { ...row, key, token_id: row.token, key_name: `sk-...${key.slice(-4)}`, expires: null } };
    }

    block(hash, blocked) {
        const row = this.keys.get(hash);
        if (!row) return notFound();
        row.blocked = blocked;
        return { status: 200, body: row };
    }

    remove(hashes) {
        const found = hashes.filter((h) => this.keys.has(h));
        if (found.length === 0) return { status: 404, body: { detail: { error: 'No keys found' } } };
        for (const h of found) {
            this.archive.set(h, this.keys.get(h));
            this.keys.delete(h);
            this.deleted++;
        }
        return { status: 200, body: { deleted_keys: hashes } };
    }

    info(hash) {
        const row = this.keys.get(hash) ?? this.archive.get(hash);
        if (!row) return failed(404, 'Key not found in database', 'not_found_error');
        const { token, ...rest } = row;
        const status = !this.keys.has(token) ? 'deleted' : row.blocked ? 'revoked' : 'active';
        return { status: 200, body: { key: hash, info: { ...rest, status } } };
    }

    close() {
        this.server.closeAllConnections();
        this.server.close();
    }
}
