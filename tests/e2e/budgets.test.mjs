// Budgets set over the API: what the operator raises goes on, what somebody lowers is refused, and it outlives restarts
// and reloads.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { Reeve, sha256, units } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

let reeve;
let keyHash; // of alice/dev's LLM key
let sequence = 0;

before(async () => {
    reeve = await Reeve.start({
        tag: 'budgets',
        edit: (config, folder) => {
            config.tenants.acme.budgets = [
                { name: 'month', scope: 'tenant', limit: '10 USD', window: 'month', timezone: 'Europe/Berlin' },
                { name: 'each', scope: 'namespace', limit: '500 USD', window: 'day' },
            ];
            config.prices = { file: 'test-prices.yaml', unpriced: 'deny' };
            fs.writeFileSync(path.join(folder, 'test-prices.yaml'), JSON.stringify({ currency: 'USD', version: '1', models: { m: { input: '1', output: '1' } } }));
        },
    });
    await reeve.workspace('alice/dev', { body: { user: 'alice@example.org' } });
    const text = (await reeve.inside('alice/dev', '/bin/sh', ['-c', 'printf %s "$ANTHROPIC_API_KEY"'])).stdout;
    keyHash = sha256(text);
});
context(() => reeve?.tail(15));
after(() => reeve?.finish());

const asFleet = { key: 'fleet owner', headers: { 'reeve-tenant': 'acme' } };
const budget = async (name) => (await reeve.api('GET', `/v1/budgets/${name}`)).body;
const set = (name, body, who = asFleet) => reeve.api('PUT', `/v1/budgets/${name}`, { ...who, body });

/** Dollars of a model call that was made. */
async function spend(dollars) {
    const told = await reeve.api('POST', '/v1/gateways/main/usage', {
        key: null,
        headers: { authorization: `Bearer ${reeve.gatewaySecret}` },
        body: { events: [{ id: `e${++sequence}`, key_hash: keyHash, model: 'm', time: new Date().toISOString(), tokens: { input: dollars * 1000000 } }] },
    });
    assert.deepEqual(told.body, { accepted: 1, duplicates: 0, rejected: [] }, told.text);
}
/** Making a workspace is what a budget refuses first; a name that is taken is not made. */
const tryMake = (name) => reeve.api('PUT', `/v1/workspaces/alice/${name}?wait=0s`);
async function refused(name, pattern) {
    const got = await tryMake(name);
    assert.equal(got.status, 402, got.text);
    assert.equal(got.body.code, 'budget_exceeded');
    assert.match(got.body.detail, pattern);
}
async function passes(name) {
    const got = await tryMake(name);
    assert.ok([201, 202].includes(got.status), got.text);
}

test('over the limit calls are refused; the operator raises it and they pass, lowers it and they do not', async () => {
    assert.equal((await budget('month')).set_by, 'operator');
    await passes('one');
    await spend(11);
    await refused('two', /budget `month`: 11 of 10 USD spent; it starts anew at \d{4}-\d\d-\d\dT2[23]:00:00Z/);
    const raised = await set('month', { limit: '20 USD' });
    assert.equal(raised.status, 200, raised.text);
    assert.deepEqual([raised.body.limit.amount, raised.body.spent.amount, raised.body.remaining.amount], ['20', '11', '9']);
    assert.deepEqual([raised.body.timezone, raised.body.file_limit.amount, raised.body.set_by], ['Europe/Berlin', '10', 'operator']);
    await passes('two');
    assert.equal((await set('month', { limit: { amount: '10.5', currency: 'USD' } })).status, 200);
    await refused('three', /11 of 10.5 USD/);
    assert.equal((await set('month', { limit: '40 USD' })).status, 200);
    await passes('three');
});

test('what was set outlives a kill and a reload, until the file itself says something else', async () => {
    await reeve.restart('SIGKILL');
    assert.equal((await budget('month')).limit.amount, '40');
    reeve.config.tenants.acme.budgets[1].limit = '501 USD'; // of another budget
    reeve.writeConfig();
    assert.equal((await reeve.api('POST', '/v1/reload', { key: 'fleet owner' })).status, 200);
    assert.equal((await budget('month')).limit.amount, '40');
    reeve.config.tenants.acme.budgets[0].limit = '30 USD';
    reeve.writeConfig();
    assert.equal((await reeve.api('POST', '/v1/reload', { key: 'fleet owner' })).status, 200);
    const now = await budget('month');
    assert.deepEqual([now.limit.amount, now.spent.amount, now.file_limit], ['30', '11', undefined]);
    await reeve.restart('SIGKILL');
    assert.equal((await budget('month')).limit.amount, '30');
});

test('an owner lowers, adds and takes back its own; never above the operator', async () => {
    const owner = { key: 'acme owner' };
    const above = await set('month', { limit: '31 USD' }, owner);
    assert.equal(above.status, 403, above.text);
    assert.match(above.body.detail, /^limit: is above the operator's 30 USD/);
    const lowered = await set('month', { limit: '5 USD' }, owner);
    assert.deepEqual([lowered.status, lowered.body.set_by, lowered.body.limit.amount], [200, 'tenant', '5'], lowered.text);
    await refused('four', /budget `month`: 11 of 5 USD/);
    const back = await reeve.api('DELETE', '/v1/budgets/month', owner);
    assert.deepEqual([back.status, back.body.limit.amount, back.body.set_by], [200, '30', 'operator'], back.text);
    await passes('four');
    assert.equal((await reeve.api('DELETE', '/v1/budgets/month', owner)).status, 403);
    const fresh = await set('small', { limit: '2 USD', scope: 'namespace', window: 'week' }, owner);
    assert.equal(fresh.status, 200, fresh.text);
    await spend(3);
    await refused('five', /budget `small` of namespace alice: 3 of 2 USD spent/);
    assert.deepEqual(
        (await reeve.api('GET', '/v1/budgets')).body.items.map((b) => [b.name, b.set_by]),
        [
            ['month', 'operator'],
            ['each', 'operator'],
            ['small', 'tenant'],
        ],
    );
    assert.equal((await reeve.api('DELETE', '/v1/budgets/small', owner)).status, 204);
    assert.equal((await reeve.api('DELETE', '/v1/budgets/small', owner)).status, 404);
    await passes('five');
    for (const key of ['acme viewer', 'acme member', 'acme alices'])
        assert.equal((await set('month', { limit: '1 USD' }, { key })).status, 403, key);
    assert.equal((await set('month', { limit: '1 USD' }, { key: 'fleet owner' })).status, 400, 'for whom?');
});

test('a wish that is wrong names the field, and changes nothing', async () => {
    const was = await budget('month');
    for (const [body, pattern] of [
        [{ limit: '1' }, /^limit: /],
        [{ limit: 20 }, /^limit: /],
        [{ limit: '1 EUR' }, /^limit: is in EUR/],
        [{ limit: { amount: '1' } }, /currency/],
        [{ limit: '1 USD', window: 'year' }, /^window: /],
        [{ limit: '1 USD', timezone: 'Mars/Olympus' }, /^timezone: /],
        [{ limit: '1 USD', scope: 'user' }, /^scope: /],
        [{ limt: '1 USD' }, /limt/],
    ]) {
        const got = await set('month', body);
        assert.equal(got.status, 400, JSON.stringify(body) + got.text);
        assert.match(got.body.detail, pattern);
    }
    assert.equal((await set('Month', { limit: '1 USD' })).status, 400);
    assert.match((await set('new', { limit: '1 USD' })).body.detail, /^scope: is wanted/);
    assert.deepEqual(await budget('month'), was);
});

test('instances, one for each namespace', async () => {
    const each = await budget('each');
    assert.equal(each.spent, undefined, 'it is counted for each namespace');
    const all = (await reeve.api('GET', '/v1/budgets/each/instances')).body;
    assert.deepEqual(all.items.map((b) => [b.namespace, b.spent.amount]), [['alice', '14']]);
    const own = (await reeve.api('GET', '/v1/budgets/each/instances', { key: 'acme bobs' })).body;
    assert.deepEqual(own.items.map((b) => [b.namespace, units(b.spent.amount)]), [['bob', 0n]]);
    assert.equal((await reeve.api('GET', '/v1/budgets/none/instances')).status, 404);
});

test('what was used, by whom and in what, also of a workspace that is gone', async () => {
    await reeve.remove('alice/dev');
    const today = new Date().toISOString().slice(0, 10);
    const used = async (query) => {
        const got = await reeve.api('GET', `/v1/usage?from=${today}&${query}`);
        assert.equal(got.status, 200, got.text);
        return got.body;
    };
    const of = await used('group_by=workspace,day');
    assert.deepEqual(of.items.map((i) => [i.namespace, i.workspace, i.day, i.tokens, i.cost.amount]), [['alice', 'dev', today, 14000000, '14']]);
    assert.match(of.items[0].workspace_id, /^ws_/);
    assert.deepEqual((await used('group_by=user')).items.map((i) => [i.user, i.input]), [['alice@example.org', 14000000]]);
    assert.equal((await used('user=alice@example.org&workspace=dev')).total.cost.amount, '14');
    assert.equal((await used('workspace=other')).total.cost.amount, '0');
    assert.equal((await used('kind=output')).total.tokens, 0);
    const own = await reeve.api('GET', '/v1/usage?namespace=alice', { key: 'acme bobs' });
    assert.equal(own.status, 404, own.text);
});

test('who set what stands in the audit log', async () => {
    const entries = [];
    for (let after = ''; ; ) {
        const page = await reeve.api('GET', `/v1/audit?limit=100${after ? `&after=${after}` : ''}`);
        assert.equal(page.status, 200, page.text);
        entries.push(...page.body.items);
        after = page.body.next;
        if (!after) break;
    }
    const of = (action) => entries.filter((e) => e.action === action);
    assert.deepEqual(
        of('budget.set').map((e) => [e.subject, e.detail]),
        [
            ['month', 'limit 20 USD'],
            ['month', 'limit 10.5 USD'],
            ['month', 'limit 40 USD'],
            ['month', 'limit 5 USD'],
            ['small', 'limit 2 USD, scope namespace, window week'],
        ],
    );
    assert.match(of('budget.set')[0].actor, /operations/);
    assert.match(of('budget.set')[3].actor, /acme\/owner/);
    assert.deepEqual(of('budget.delete').map((e) => e.subject), ['month', 'small']);
    assert.deepEqual(of('budget.override_end').map((e) => e.subject), ['month']);
});
