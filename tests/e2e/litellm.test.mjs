// The real LiteLLM proxy on the road that an agent takes: prompt, agent in its sandbox, door, LiteLLM, admission,
// provider, callback, ledger. What the ledger must say was worked out by hand.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { LiteLLM, Provider, Relay } from './litellm.mjs';
import { clientLibrary, decimal, failure, needNodeInside, parseCsv, prompt, Reeve, sha256, slow, units, until } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

const prices = {
    'claude-sonnet-4-5': { input: '3', output: '15', cache_read: '0.30', cache_write: '3.75' },
    'gpt-4o': { input: '2.5', output: '10', cache_read: '1.25' },
    'text-embedding-3-small': { input: '0.02' },
};
const place = 'alice/dev';
const month = new Date().toISOString().slice(0, 7);

let reeve;
let provider;
let relay;
let lite;
let sdk;
let session;
let key;

before(async () => {
    needNodeInside();
    await clientLibrary();
    provider = await Provider.start();
    relay = await Relay.start();
    lite = await LiteLLM.prepare({
        provider,
        // beside ours, LiteLLM's own callback: it shows what an unabridged report looks like
        edit: (text) =>
            text
                .replace('["reeve_litellm.usage"]', '["reeve_litellm.usage", "generic_api"]')
                .replace(
                    'litellm_settings:',
                    `callback_settings:\n  generic_api: {callback_type: generic_api, endpoint: "${relay.url}/stock", headers: {X-From: stock}, max_retries: 5}\n\nlitellm_settings:`,
                ),
    });
    reeve = await Reeve.start({
        tag: 'litellm',
        gateway: lite.url,
        edit: (config, folder) => {
            config.gateways.main.kind = 'litellm';
            config.prices = { file: 'test-prices.yaml', unpriced: 'deny' };
            config.tenants.acme.budgets = [{ name: 'month', scope: 'tenant', limit: '1000 USD', window: 'month' }];
            config.tenants.globex.budgets = [{ name: 'cents', scope: 'tenant', limit: '0.01 USD', window: 'month' }];
            fs.writeFileSync(path.join(folder, 'test-prices.yaml'), JSON.stringify({ currency: 'USD', version: 'test-1', models: prices }));
        },
    });
    relay.attach(reeve);
    const [, made] = await Promise.all([lite.start(relay), reeve.workspace(place, { body: { user: 'alice@example.org' } })]);
    assert.equal(made.state, 'ready');
    await reeve.agentInto(place);
    key = await keyOf(place);
    sdk = await reeve.connect(place);
    session = await sdk.createSession({ agent: 'mock' });
});
context(() => `${reeve?.tail(15)}\n${lite?.tail()}`);
after(async () => {
    await sdk?.dispose();
    await lite?.close();
    await reeve?.finish();
    relay?.close();
    provider?.close();
});

const keyOf = async (where, options) => (await reeve.inside(where, '/bin/sh', ['-c', 'printf %s "$ANTHROPIC_API_KEY"'], options)).stdout;
const messages = (text, more = {}) => ({ path: '/v1/messages', body: { model: 'claude-sonnet-4-5', max_tokens: 64, messages: [{ role: 'user', content: text }], ...more } });
const chat = (text, more = {}) => ({ path: '/v1/chat/completions', body: { model: 'gpt-4o', messages: [{ role: 'user', content: text }], ...more } });
const embeddings = (text) => ({ path: '/v1/embeddings', body: { model: 'text-embedding-3-small', input: text } });

/** The agent makes the call; gives "STATUS BODY". */
const ask = async (call, by = session) => (await prompt(by, `post ${JSON.stringify(call)}`, { ms: 90000 })).said[0];

async function entries(tenant = 'acme') {
    const got = await reeve.api('GET', `/v1/periods/${month}/export?format=jsonl`, { key: `${tenant} owner` });
    assert.equal(got.status, 200, got.text);
    return got.text.split('\n').filter(Boolean).map((line) => JSON.parse(line));
}
/** Refusals and failures are entries too, and come when they come. */
const successes = async (tenant) => (await entries(tenant)).filter((e) => e.status === 'success');
/** Waits for so many successes more than there were, and gives them. */
const news = (what, n, known, tenant) =>
    until(`${n} entries of ${what}`, 60000, async () => {
        const all = await successes(tenant);
        return all.length >= known.length + n && all.slice(known.length);
    });
const lines = (entry) => entry.lines.map((line) => `${line.quantity} ${line.kind}`).join(', ');
const budget = async (name, tenant = 'acme') => (await reeve.api('GET', `/v1/budgets/${name}`, { key: `${tenant} viewer` })).body;
async function suspense(options) {
    const got = await reeve.api('GET', '/v1/suspense?limit=500', options);
    assert.equal(got.status, 200, got.text);
    return got.body.items;
}
async function report(raw, headers = {}) {
    const got = await reeve.api('POST', '/v1/gateways/main/usage', { key: null, headers: { authorization: `Bearer ${reeve.gatewaySecret}`, ...headers }, raw });
    assert.equal(got.status, 200, got.text);
    return got.body;
}

test('chat and messages, streamed and not, and embeddings: the ledger says what was worked out by hand', { timeout: 300000 }, async () => {
    // each: the call, type, lines, cost in USD (prices above, for a million tokens)
    const table = [
        [messages('use 135 15 100 10'), 'anthropic_messages', '25 input, 15 output, 100 cache_read, 10 cache_write', '0.0003675'],
        [messages('use 317 31 101 13', { stream: true }), 'anthropic_messages', '203 input, 31 output, 101 cache_read, 13 cache_write', '0.00115305'],
        [chat('use 137 17 101'), 'acompletion', '36 input, 17 output, 101 cache_read', '0.00038625'],
        [chat('use 211 23 103', { stream: true }), 'acompletion', '108 input, 23 output, 103 cache_read', '0.00062875'],
        [embeddings('use 53 0'), 'aembedding', '53 input', '0.00000106'],
    ];
    for (const [call] of table) {
        const said = await ask(call);
        assert.match(said, /^200 /);
        if (call.body.stream) assert.match(said, /word/);
    }
    const got = await news('the table', table.length, []);
    assert.equal(got.length, table.length);
    got.sort((a, b) => a.time.localeCompare(b.time));
    table.forEach(([, type, tokens, cost], i) => {
        const e = got[i];
        assert.deepEqual([e.call_type, lines(e), e.amount, e.status, e.estimated], [type, tokens, cost, 'success', false]);
        assert.deepEqual([e.namespace, e.workspace, e.user, e.key_hash], ['alice', 'dev', 'alice@example.org', sha256(key)]);
    });
    assert.deepEqual(
        got.map((e) => e.model),
        ['anthropic/claude-sonnet-4-5', 'anthropic/claude-sonnet-4-5', 'openai/gpt-4o', 'openai/gpt-4o', 'openai/text-embedding-3-small'],
    );
    // LiteLLM's own sums are floats; they are kept beside ours, and are not ours
    assert.ok(got.every((e) => Math.abs(Number(e.reported_cost) - Number(e.amount)) < 1e-12));
    const total = '0.00253661';
    assert.equal((await budget('month')).spent.amount, total);
    const csv = await reeve.api('GET', `/v1/periods/${month}/export?format=csv`);
    assert.equal(decimal(parseCsv(csv.text).reduce((sum, row) => sum + units(row.cost), 0n)), total);
    // the provider was called with its own keys, and nothing of the workspace's
    assert.equal(provider.calls.length, table.length);
    for (const call of provider.calls) assert.ok(!JSON.stringify(call).includes(key));
    // no prompt and no answer was in what was reported, nor is in the log
    const said = JSON.stringify(relay.reports) + JSON.stringify(reeve.log) + JSON.stringify(got);
    assert.ok(!said.includes('use 135') && !said.includes('to be sure'));
    assert.ok(relay.answers.every((a) => a.rejected.length === 0));
});

test('an agent that writes its own call ids, tags and metadata gains nothing', { timeout: 180000 }, async () => {
    const known = await successes();
    const spent = units((await budget('month')).spent.amount);
    const other = sha256('another key');
    const headers = {
        'x-litellm-call-id': 'mine',
        'x-litellm-tags': 'free',
        'x-litellm-customer-id': 'bob',
        'x-litellm-disable-callbacks': 'reeve_litellm.usage',
        'x-litellm-enable-message-redaction': 'true',
    };
    const forged = {
        'no-log': true,
        litellm_call_id: 'mine',
        user: 'bob',
        guardrails: [],
        disable_global_guardrails: true,
        mock_response: 'free of charge',
        metadata: { user_api_key_hash: other, user_api_key_token: other, user_api_key: other, disable_global_guardrails: true, tags: ['free'] },
        litellm_metadata: { user_api_key_hash: other, user_api_key_token: other, litellm_call_id: 'mine', disable_global_guardrails: true },
    };
    for (let i = 0; i < 2; i++) {
        assert.match(await ask({ ...chat('use 100 10'), headers }), /^200 /);
        assert.match(await ask({ ...chat('use 100 10', forged), headers }), /^200 .*to be sure/);
        assert.match(await ask({ ...messages('use 100 10'), headers }), /^200 /);
    }
    const got = await news('the six', 6, known);
    assert.equal(got.length, 6);
    assert.equal(new Set(got.map((e) => e.id)).size, 6);
    assert.ok(got.every((e) => e.id !== 'mine' && e.key_hash === sha256(key) && e.workspace === 'dev'));
    // 4 × (100 × 2.5 + 10 × 10) + 2 × (100 × 3 + 10 × 15)
    assert.equal(decimal(units((await budget('month')).spent.amount) - spent), '0.0023');
    assert.ok(!provider.calls.some((call) => JSON.stringify(call.headers).includes('mine')));
    // what is not a call that is reported one by one is not offered
    for (const where of [{ background: true }, { extra_body: { background: true } }])
        assert.match(await ask({ path: '/v1/responses', body: { model: 'gpt-4o', input: 'use 1 1', ...where } }), /^400 .*background/);
    assert.match(await ask(chat('use 1 1', { fallbacks: ['claude-sonnet-4-5'] })), /^400 .*fallbacks/);
    for (const it of ['/v1/batches', '/v1/files', '/v1/fine_tuning/jobs', '/v1/key/generate']) assert.match(await ask({ path: it, body: { model: 'gpt-4o' } }), /^40[34] /);
});

test('a client that leaves in the middle of a stream: estimated, and not free', { timeout: 180000 }, async () => {
    const known = await successes();
    assert.equal(await ask({ ...chat('use 400 40 slow', { stream: true }), leave: true }), 'left');
    await until('the provider notices', 60000, () => provider.left === 1);
    const e = await until('the call in the ledger', 60000, async () => (await successes())[known.length]);
    assert.deepEqual([e.estimated, e.model], [true, 'openai/gpt-4o']);
    assert.ok(e.lines.length > 0 && units(e.amount) > 0n);
    assert.equal(
        decimal(units(e.amount)),
        decimal(e.lines.reduce((sum, line) => sum + BigInt(line.quantity) * (units(prices['gpt-4o'][line.kind]) / 1000000n), 0n)),
    );
});

test('a provider that fails: recorded at zero; what worked at the second try is posted', { timeout: 180000 }, async () => {
    const seen = new Set((await entries()).map((e) => e.id));
    const spent = units((await budget('month')).spent.amount);
    assert.match(await ask(messages('use 10 2 fail 1')), /^200 /);
    assert.match(await ask(chat('use 10 2 fail 99')), /^500 .*bad day/);
    const got = await until('a success and two failures', 60000, async () => {
        const all = (await entries()).filter((e) => !seen.has(e.id) && e.model !== 'unknown');
        return all.filter((e) => e.status === 'failure').length >= 2 && all.some((e) => e.status === 'success') && all;
    });
    const failures = got.filter((e) => e.status === 'failure');
    const worked = got.filter((e) => e.status === 'success');
    assert.ok(failures.every((e) => e.amount === '0' && e.lines.length === 0));
    assert.deepEqual(worked.map((e) => e.amount), ['0.00006']);
    assert.ok(failures.some((e) => e.id.startsWith(`${worked[0].id}#failed@`)));
    assert.equal(decimal(units((await budget('month')).spent.amount) - spent), '0.00006');
});

test('searches at the provider are not free: unpriced, in suspense, their tokens counted', { timeout: 120000 }, async () => {
    const known = await successes();
    assert.match(await ask(messages('use 12 2 search 3')), /^200 /);
    const item = await until('the record', 60000, async () => (await suspense()).find((it) => it.detail.includes('web_search_requests 3')));
    assert.deepEqual([item.reason, item.cost.amount, item.tokens], ['unpriced', '0.000066', { input: 12, output: 2 }]);
    assert.equal((await budget('month')).unsettled.amount, '0.000066');
    assert.equal((await successes()).length, known.length);
});

test('/v1/responses: tools of the provider are noticed, those that the caller runs are not', { timeout: 180000 }, async () => {
    const known = await successes();
    const shell = { type: 'shell_call', id: 'sh_1', call_id: 'c_1', status: 'completed', action: { commands: ['ls'] } };
    const own = [
        { type: 'function_call', id: 'fc_1', call_id: 'c_2', name: 'f', arguments: '{}', status: 'completed' },
        { ...shell, environment: { type: 'local' } },
    ];
    const hosted = [
        { ...shell, environment: { type: 'container_reference', container_id: 'cntr_1' } },
        { type: 'image_generation_call', id: 'ig_1', status: 'completed', result: 'aGk=' },
    ];
    const call = (n, items, more = {}) => ({ path: '/v1/responses', body: { model: 'gpt-4o', input: `use ${n} 3 ${items.map((it) => `item ${JSON.stringify(it)}`).join(' ')}`, ...more } });
    for (const more of [{}, { stream: true }]) {
        const n = more.stream ? 41 : 31;
        assert.match(await ask(call(n, own, more)), /^200 /);
        assert.match(await ask(call(n + 1, hosted, more)), /^200 /);
        const item = await until('the record', 60000, async () => (await suspense()).find((it) => it.tokens.input === n + 1));
        assert.deepEqual([item.reason, item.detail], ['unpriced', 'no price covers: reeve_provider_tools image_generation_call 1, shell_call 1']);
    }
    const got = await news('the two', 2, known);
    assert.deepEqual(got.map(lines).sort(), ['31 input, 3 output', '41 input, 3 output']);
});

test('replays are duplicates in every form, unabridged too; altered ones are conflicts that count; an unknown key waits', { timeout: 120000 }, async () => {
    const known = await successes();
    const wanted = new Set(known.map((e) => e.id));
    // as LiteLLM's own callback has sent them, every five seconds, prompts and answers and all; it may lose some
    const full = await until("most of LiteLLM's own reports", 60000, () => {
        const found = relay.stock.filter((e) => wanted.has(e.litellm_call_id) && e.status === 'success');
        return found.length > wanted.size / 2 && found;
    });
    assert.ok(JSON.stringify(full[0]).length > 3 * JSON.stringify(relay.reports[0]).length);
    assert.ok(JSON.stringify(full).includes('to be sure'));
    const all = { accepted: 0, duplicates: full.length, rejected: [] };
    assert.deepEqual(await report(JSON.stringify(full)), all);
    assert.deepEqual(await report(full.map((e) => JSON.stringify(e)).join('\n')), all);
    assert.deepEqual(await report(gzipSync(JSON.stringify(full)), { 'content-encoding': 'gzip' }), all);
    assert.deepEqual(await report(JSON.stringify(full[0])), { accepted: 0, duplicates: 1, rejected: [] });
    assert.deepEqual(await report(relay.reports.map((e) => JSON.stringify(e)).join('\n')).then((a) => [a.accepted, a.duplicates + a.rejected.length]), [0, relay.reports.length]);
    // altered
    const unsettled = units((await budget('month')).unsettled.amount);
    const altered = structuredClone(full.find((e) => e.model === 'openai/gpt-4o'));
    altered.metadata.usage_object = { prompt_tokens: 1000, completion_tokens: 0 };
    for (let i = 0; i < 2; i++) {
        const said = await report(JSON.stringify([altered]));
        assert.deepEqual(said.rejected.map((row) => row.code), ['conflict']);
    }
    assert.equal(decimal(units((await budget('month')).unsettled.amount) - unsettled), '0.0025');
    assert.ok((await suspense()).some((it) => it.reason === 'conflict' && it.id === altered.litellm_call_id));
    // a key that nobody knows
    const stranger = structuredClone(full[0]);
    stranger.metadata.user_api_key_hash = sha256('a stranger');
    assert.deepEqual((await report(JSON.stringify(stranger))).rejected.map((row) => row.code), ['unknown_key']);
    const found = (await suspense({ key: 'fleet owner' })).find((it) => it.key_hash === sha256('a stranger'));
    assert.equal(found.reason, 'unknown_key');
    assert.equal((await successes()).length, known.length);
});

test('admission: keys that are none, models without a price, no answer at all', { timeout: 180000 }, async () => {
    const calls = provider.calls.length;
    const direct = (call, headers) => lite.request('POST', call.path, { headers, body: call.body });
    const stranger = await direct(chat('use 1 1'), { authorization: 'Bearer sk-stranger' });
    assert.equal(stranger.status, 401, stranger.text);
    assert.match(stranger.body.error.message, /not known/);
    const master = await direct(chat('use 1 1'), { authorization: `Bearer ${lite.masterKey}` });
    assert.equal(master.status, 401, master.text);
    const unpriced = await direct({ path: '/v1/embeddings', body: { model: 'some-model', input: 'x' } }, { authorization: `Bearer ${key}` });
    assert.equal(unpriced.status, 400, unpriced.text);
    assert.match(unpriced.body.error.message, /some-model.*has no price/);
    relay.isAdmissionDown = true;
    try {
        for (const call of [chat('use 1 1'), messages('use 1 1'), embeddings('use 1 0')]) {
            const silent = await direct(call, { authorization: `Bearer ${key}` });
            assert.ok(silent.status >= 500, `${call.path}: ${silent.status} ${silent.text}`);
        }
    } finally {
        relay.isAdmissionDown = false;
    }
    assert.equal(provider.calls.length, calls); // none of them was made
    // asked directly
    const question = (body) => reeve.api('POST', '/v1/gateways/main/admission/beta/litellm_basic_guardrail_api', { key: null, headers: { 'x-api-key': reeve.gatewaySecret }, raw: typeof body === 'string' ? body : JSON.stringify(body) });
    const good = { input_type: 'request', model: 'gpt-4o', request_data: { user_api_key_hash: sha256(key) }, texts: ['\ud800', 'x'.repeat(3 << 20)], structured_messages: [[[[{}]]]] };
    assert.deepEqual((await question(good)).body, { action: 'NONE' });
    assert.deepEqual((await question({ ...good, input_type: 'response' })).body, { action: 'NONE' });
    for (const hash of [undefined, null, '', 'litellm_proxy_master_key', sha256('nobody')])
        assert.equal((await question({ ...good, request_data: { user_api_key_hash: hash } })).body.action, 'BLOCKED');
    for (const bad of ['', '[]', '[{}]', '{', 'x', '{}', JSON.stringify({ ...good, model: 7 }), JSON.stringify({ ...good, input_type: 'maybe' }), JSON.stringify({ ...good, request_data: { user_api_key_hash: {} } })])
        assert.equal((await question(bad)).status, 400, bad);
});

test('reports survive a Reeve that is away, answers that are lost, and LiteLLM killed and started again', { timeout: 600000 }, async () => {
    const known = await successes();
    relay.losesAnswers = 1;
    assert.match(await ask(messages('use 21 1')), /^200 /);
    assert.equal((await news('the call whose report was answered to nobody', 1, known)).length, 1);
    await until('it was sent again', 60000, () => relay.answers.at(-1).duplicates === 1 && lite.spooled().length === 0);
    // Reeve is away; LiteLLM dies with reports in its spool, and with a call under way
    relay.isUsageDown = true;
    for (let i = 0; i < 3; i++) assert.match(await ask(messages(`use 2${i} 1`)), /^200 /);
    await until('the spool has something', 30000, () => lite.spooled().length > 0);
    const cut = ask(chat('use 500 50 slow', { stream: true }));
    await until('the stream is under way', 30000, () => provider.calls.at(-1).text.includes('use 500'));
    await lite.kill('SIGKILL');
    // the agent sees a stream that breaks off, not one that ends
    assert.match(await cut, /^error|^50[234] /);
    // and later calls an error that says so
    assert.match(await ask(messages('use 30 1')), /^50[234] .*gateway/);
    relay.isUsageDown = false;
    await lite.start(relay);
    assert.match(await ask(messages('use 31 1')), /^200 /);
    const got = await news('all that was answered', 5, known);
    assert.equal(got.length, 5);
    // 3 × (21 + 20 + 21 + 22 + 31) + 15 × 5
    assert.equal(decimal(got.reduce((sum, e) => sum + units(e.amount), 0n)), '0.00042');
    await until('the spool is empty', 30000, () => lite.spooled().length === 0);
});

test('a budget of 0.01 USD lets calls through until it is spent; raised, it lets them through again', { timeout: 300000 }, async () => {
    const owner = { key: 'globex owner' };
    await reeve.workspace('zoe/dev', owner);
    await reeve.agentInto('zoe/dev', owner);
    const theirs = await keyOf('zoe/dev', owner);
    const library = await reeve.connect('zoe/dev', owner);
    const direct = (call) => lite.request('POST', call.path, { headers: { 'x-api-key': theirs }, body: call.body });
    try {
        const their = await library.createSession({ agent: 'mock' });
        const call = messages('use 1000 100'); // 0.0045 USD
        for (let i = 1; i <= 3; i++) {
            assert.match(await ask(call, their), /^200 /);
            await until(`call ${i} is in the ledger`, 30000, async () => (await successes('globex')).length === i);
        }
        assert.equal((await budget('cents', 'globex')).spent.amount, '0.0135');
        const calls = provider.calls.length;
        const reason = /budget `cents`.*0\.0135 of 0\.01 USD spent.*starts anew at/;
        // LiteLLM's clients see it in their own shapes, streamed or not
        for (const stream of [false, true]) {
            const anthropic = await direct(messages('use 1 1', { stream }));
            assert.equal(anthropic.status, 400, anthropic.text);
            assert.equal(anthropic.body.type, 'error');
            assert.match(anthropic.body.error.message, reason);
            const openai = await direct(chat('use 1 1', { stream }));
            assert.equal(openai.status, 400, openai.text);
            assert.match(openai.body.error.message, reason);
        }
        assert.match((await direct(embeddings('use 1 0'))).body.error.message, reason);
        // and the prompt as a JSON-RPC error; the connection lives on
        const refused = await failure(their.prompt([{ type: 'text', text: 'echo hello' }]));
        assert.match(String(refused.message), /budget/);
        assert.equal(provider.calls.length, calls);
        // another tenant does not notice
        assert.match(await ask(embeddings('use 1 0')), /^200 /);
        reeve.config.tenants.globex.budgets[0].limit = '1 USD';
        reeve.writeConfig();
        const reload = await reeve.api('POST', '/v1/reload', { key: 'fleet owner' });
        assert.equal(reload.status, 200, reload.text);
        assert.equal((await direct(messages('use 1 1'))).status, 200);
        assert.match(await ask(messages('use 1 1'), their), /^200 /);
    } finally {
        await library.dispose();
    }
});

test('a deleted workspace has no key any more', { timeout: 120000 }, async () => {
    await reeve.workspace('bob/gone');
    const theirs = await keyOf('bob/gone');
    const direct = () => lite.request('POST', '/v1/embeddings', { headers: { authorization: `Bearer ${theirs}` }, body: embeddings('use 1 0').body });
    assert.equal((await direct()).status, 200);
    await reeve.remove('bob/gone');
    // LiteLLM may take the key for good for some seconds more, but each call is still asked about
    const refused = await direct();
    assert.ok([400, 401].includes(refused.status), refused.text);
    assert.match(refused.text, /revoked|gone|not known/);
});

test('Reeve killed and started again while calls are made: what was answered is in the ledger, once', { timeout: 300000 }, async () => {
    const ours = async () => (await successes()).filter((e) => e.amount === '0.00000014');
    assert.equal((await ours()).length, 0);
    let answered = 0;
    let refused = 0;
    let isOver = false;
    const call = () => lite.request('POST', '/v1/embeddings', { headers: { authorization: `Bearer ${key}` }, body: embeddings('use 7 0').body });
    const caller = async () => {
        while (!isOver) (await call()).status === 200 ? answered++ : refused++;
    };
    const callers = [caller(), caller(), caller()];
    try {
        for (let round = 0; round < 2; round++) {
            const enough = answered + 10;
            await until('calls are answered', 60000, () => answered >= enough);
            await reeve.restart('SIGKILL');
        }
        const enough = answered + 10;
        await until('calls are answered again', 60000, () => answered >= enough);
    } finally {
        isOver = true;
        await Promise.all(callers);
    }
    assert.ok(refused > 0); // nobody was there to be asked
    await until('all that was answered', 60000, async () => (await ours()).length >= answered);
    await until('the spool is empty', 60000, () => lite.spooled().length === 0);
    const got = await ours();
    assert.equal(got.length, answered);
    assert.equal(new Set(got.map((e) => e.id)).size, answered);
});
