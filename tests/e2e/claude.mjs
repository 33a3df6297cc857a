// Claude Code as npm gives it, inside a sandbox: prompted through the client library, its model calls through the door
// to a provider that is not there, either at once or by the real LiteLLM. What a user sees: the answer, the events, what
// it cost, and the refusal.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { Gateway } from './gateway.mjs';
import { failure, needNodeInside, Reeve, root, target, until, units, within } from './lib.mjs';
import { LiteLLM } from './litellm.mjs';
import { after, before, context, test } from './suite.mjs';

const model = 'claude-sonnet-4-5';
const place = 'alice/dev';

let gateway;
let lite;
let reeve;
let sdk;

/** Registers the tests; with LiteLLM between the door and the provider, or without. */
export function claudeTests({ hasLiteLLM }) {
    before(() => begin(hasLiteLLM));
    context(() => `${reeve?.tail(15)}\n${gateway?.failed?.stack ?? ''}\n${lite?.tail() ?? ''}`);
    after(async () => {
        await sdk?.dispose();
        await lite?.close();
        await reeve?.finish();
        gateway?.close();
    });
    tests();
}

async function begin(hasLiteLLM) {
    needNodeInside();
    const installed = spawnSync(path.join(root, 'tests/e2e/install-claude'), { encoding: 'utf8', timeout: 170000 });
    assert.equal(installed.status, 0, installed.stderr);
    const folder = path.join(root, installed.stdout.trim());
    if (target.provider === 'docker') {
        const built = await target.engine.build('--base', 'reeve/agent:latest', '--tag', 'reeve/agent:claude', '--agents', `claude=${folder}`);
        assert.equal(built.code, 0, built.err);
    }
    gateway = await Gateway.start();
    gateway.isProvider = hasLiteLLM;
    lite = hasLiteLLM ? await LiteLLM.prepare({ provider: gateway }) : undefined;
    reeve = await Reeve.start({
        tag: 'claude',
        gateway: (lite ?? gateway).url,
        edit: (config, at) => {
            fs.writeFileSync(path.join(at, 'prices.yaml'), `currency: USD\nversion: "1"\nmodels:\n  ${model}: {input: 3, output: 15}\n`);
            if (lite) config.gateways.main.kind = 'litellm';
            config.templates.coding.image = 'reeve/agent:claude';
            config.templates.coding.server = {
                agents: ['claude'],
                env: {
                    ANTHROPIC_MODEL: model,
                    ANTHROPIC_DEFAULT_HAIKU_MODEL: model,
                    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1',
                    SANDBOX_AGENT_REQUIRE_PREINSTALL: '1',
                },
            };
            config.tenants.acme.budgets = [{ name: 'month', scope: 'tenant', limit: '5 USD', window: 'month' }];
        },
    });
    gateway.attach(reeve);
    const [made] = await Promise.all([reeve.workspace(place, { body: { user: 'alice@example.org' } }), lite?.start(reeve)]);
    if (target.provider === 'local') await install(made.id, folder);
    // it asks its user, whatever it would do by itself
    await reeve.api('POST', `/w/${place}/v1/fs/mkdir?path=.claude`);
    await reeve.put(place, '.claude/settings.json', JSON.stringify({ permissions: { defaultMode: 'default' } }));
    sdk = await reeve.connect(place);
}

/** Into the home, as an operator prepares one; the files are shared with the cache, where both are on one disk. */
async function install(id, from) {
    const volume = path.join(reeve.folder, 'data/local/homes', id, 'volume');
    const copy = (how) => spawnSync('cp', [how, path.join(from, 'node_modules'), path.join(volume, 'claude-code')], { encoding: 'utf8' });
    fs.mkdirSync(path.join(volume, 'claude-code'), { mode: 0o755 });
    const copied = copy('-al').status === 0 ? { status: 0 } : copy('-a');
    assert.equal(copied.status, 0, copied.stderr);
    const at = '$HOME/claude-code/node_modules';
    await reeve.api('POST', `/w/${place}/v1/fs/mkdir?path=.local%2Fbin`);
    for (const [name, command] of [
        ['claude-agent-acp', `${fs.realpathSync(process.execPath)} ${at}/@agentclientprotocol/claude-agent-acp/dist/index.js`],
        ['claude', `${at}/@anthropic-ai/claude-agent-sdk-linux-x64/claude`],
    ]) {
        await reeve.put(place, `.local/bin/${name}`, `#!/bin/sh\nexec ${command} "$@"\n`);
        const ran = await reeve.inside(place, '/bin/chmod', ['755', `/home/agent/.local/bin/${name}`]);
        assert.equal(ran.exitCode, 0, ran.stderr);
    }
}

/** Prompts; gives the answer's text, why it ended and every update that came. */
async function ask(session, text) {
    const updates = [];
    const off = session.onEvent((event) => {
        const update = event.payload?.params?.update;
        if (event.sender === 'agent' && update) updates.push(update);
    });
    try {
        const answer = await within(60000, `the answer to "${text}"`, session.prompt([{ type: 'text', text }]));
        const said = () =>
            updates
                .filter((u) => u.sessionUpdate === 'agent_message_chunk' && u._meta?.claudeCode?.kind !== 'informational')
                .map((u) => u.content.text)
                .join('');
        return { answer, updates, said };
    } finally {
        setTimeout(off, 2000).unref();
    }
}

/** 1e-18 USD of calls that the provider has answered. */
const cost = (calls) => calls.reduce((sum, c) => sum + BigInt(c.tokens.input) * 3000000000000n + BigInt(c.tokens.output) * 15000000000000n, 0n);
const spent = async () => units((await reeve.api('GET', '/v1/budgets/month', { key: 'acme viewer' })).body.spent.amount);
const newSession = () => within(60000, 'a session', sdk.createSession({ agent: 'claude', cwd: '/home/agent' }));
const settled = () =>
    until('every call is booked', 60000, async () => gateway.pending === 0 && (await spent()) === cost(gateway.answered)).catch(async (e) =>
        assert.fail(`${e.message}: ${await spent()} of ${cost(gateway.answered)}, ${JSON.stringify(gateway.answered)}`),
    );
const hears = (got, words) => until('the words', 10000, () => got.said() === words).catch((e) => assert.fail(`${e.message}: ${got.said()}`));

function tests() {
    test('a prompt is answered by the provider, word by word, and stands in the ledger', { timeout: 120000 }, async () => {
        const session = await newSession();
        const got = await ask(session, 'use 1000 200 say four words of answer');
        assert.equal(got.answer.stopReason, 'end_turn');
        await hears(got, 'four words of answer');
        assert.deepEqual([got.answer.usage.inputTokens, got.answer.usage.outputTokens], [1000, 200], 'what the agent says it used');
        assert.ok(got.updates.filter((u) => u.sessionUpdate === 'agent_message_chunk').length > 1, 'it came in pieces');
        await settled();
        assert.ok(gateway.calls.some((c) => c.url.startsWith('/v1/messages') && JSON.parse(c.text).stream), 'streamed');
        const used = (await reeve.api('GET', `/v1/workspaces/${place}/usage?by=model`)).body;
        assert.equal(units(used.total.cost.amount), cost(gateway.answered), JSON.stringify(used));
        const lines = (await reeve.api('GET', `/v1/periods/${new Date().toISOString().slice(0, 7)}/export?format=jsonl`)).text;
        const entries = lines.split('\n').filter(Boolean).map((line) => JSON.parse(line));
        const entry = entries.find((e) => e.lines.some((l) => l.kind === 'input' && l.quantity === 1000));
        assert.ok(entry, `the call is among ${lines}`);
        assert.deepEqual(
            [entry.namespace, entry.workspace, entry.user, entry.model, entry.amount, entry.lines.map((l) => [l.kind, l.quantity])],
            ['alice', 'dev', 'alice@example.org', lite ? `anthropic/${model}` : model, '0.006', [['input', 1000], ['output', 200]]],
        );
    });

    test('it asks before it acts, and acts inside', { timeout: 120000 }, async () => {
        const session = await newSession();
        const asked = [];
        session.onPermissionRequest((p) => {
            asked.push([p.toolCall.kind, p.toolCall.rawInput.command]);
            session.respondPermission(p.id, 'once');
        });
        const command = 'echo "made by $(id -un)" > made; ls -d /home/*';
        const got = await ask(session, `run ${command}`);
        assert.equal(got.answer.stopReason, 'end_turn');
        await hears(got, 'it gave: /home/agent');
        assert.deepEqual(asked, [['execute', command]]);
        assert.deepEqual(
            got.updates.filter((u) => u.status === 'completed').map((u) => u.rawOutput),
            ['/home/agent'],
        );
        assert.equal((await reeve.api('GET', `/w/${place}/v1/fs/file?path=made`)).text, 'made by agent\n');
        // refused, it does not
        const other = await newSession();
        let asks = 0;
        other.onPermissionRequest((p) => {
            asks++;
            return other.respondPermission(p.id, 'reject');
        });
        await ask(other, 'run echo x > never').catch((e) => e);
        assert.equal(asks, 1, 'it asked before it ran');
        assert.equal((await reeve.api('GET', `/w/${place}/v1/fs/file?path=never`)).status, 400, 'there is no such file');
    });

    test('the budget ends while it works: the user is told, and once it is raised both go on', { timeout: 120000 }, async () => {
        const session = await newSession();
        session.onPermissionRequest((p) => session.respondPermission(p.id, 'once'));
        // its first call spends all there is; the one that brings the command's result is refused at the door
        const working = failure(ask(session, 'run until [ -e go ]; do sleep 0.05; done # use 1900000 10'));
        await until('it is spent', 60000, async () => (await spent()) > units('5'));
        await reeve.put(place, 'go', '');
        const inside = await working;
        assert.match(inside.message, /API Error: 400 budget `month`: .* of 5 USD spent; it starts anew at /);
        await settled();
        const calls = gateway.calls.length;
        const outside = await failure(within(20000, 'the refusal', session.prompt([{ type: 'text', text: 'say more' }])));
        assert.equal(outside.code, -32010, outside.stack);
        assert.equal(outside.data.code, 'budget_exceeded');
        assert.match(outside.message, /budget `month`/);
        assert.equal(gateway.calls.length, calls, 'the provider was asked nothing');

        reeve.config.tenants.acme.budgets[0].limit = '100 USD';
        reeve.writeConfig();
        assert.equal((await reeve.api('POST', '/v1/reload', { key: 'fleet owner' })).status, 200);
        const got = await ask(session, 'say it goes on');
        await hears(got, 'it goes on');
    });

    test('it sees one key, which is worth nothing elsewhere', async () => {
        const { stdout } = await reeve.inside(place, '/bin/sh', ['-c', 'env']);
        assert.match(stdout, /^ANTHROPIC_BASE_URL=http:\/\/127\.0\.0\.1:8700$/m);
        const key = /^ANTHROPIC_API_KEY=(.*)$/m.exec(stdout)[1];
        for (const call of gateway.calls) assert.equal(call.headers['x-api-key'] === key, !gateway.isProvider, 'it goes to the gateway, and no further');
        const direct = await reeve.api('GET', '/v1/workspaces', { key: null, headers: { authorization: `Bearer ${key}` } });
        assert.equal(direct.status, 401, direct.text);
    });
}
