// A key per workspace at LiteLLM: made before the server starts, blocked while it sleeps, renewed with its process,
// revoked for certain; whatever the gateway answers, and whenever Reeve dies. What Reeve asks is checked against the
// document that a real proxy serves; the real one, which has no database here, answers such calls with 500.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { KeyApi } from './keyapi.mjs';
import { Reeve, sha256, until } from './lib.mjs';
import { LiteLLM } from './litellm.mjs';
import { after, before, context, test } from './suite.mjs';

const adminKey = 'sk-admin-of-the-test-7fd1';
let api;
let other;
let real;
let reeve;

before(async () => {
    const nowhere = 'http://127.0.0.1:1';
    real = await LiteLLM.prepare({ provider: { url: nowhere }, edit: (text) => text.replace(/^ +custom_auth:.*$/m, '  {}') });
    await real.start({ url: nowhere, gatewaySecret: 'gateway-secret-of-the-test' });
    const { body: document } = await real.request('GET', '/openapi.json');
    for (const name of ['generate', 'block', 'unblock', 'delete', 'info']) assert.ok(document.paths[`/key/${name}`], name);
    api = await KeyApi.start({ adminKey, document });
    other = await KeyApi.start({ adminKey, document });
    reeve = await Reeve.start({
        tag: 'keys',
        edit: (config, folder) => {
            fs.writeFileSync(path.join(folder, 'admin.secret'), adminKey, { mode: 0o600 });
            const gateway = (url) => ({ kind: 'litellm', url, secret: 'file:gateway.secret', admin_key: 'file:admin.secret' });
            config.gateways.litellm = gateway(api.url);
            config.gateways.second = { ...gateway(other.url), kind: 'litellm' };
            fs.writeFileSync(path.join(folder, 'second.secret'), 'second-gateway-secret-000000', { mode: 0o600 });
            config.gateways.second.secret = 'file:second.secret';
            config.tenants.acme.gateway = 'litellm';
            fs.writeFileSync(path.join(folder, 'real.secret'), real.masterKey, { mode: 0o600 });
            fs.writeFileSync(path.join(folder, 'real-own.secret'), 'real-gateway-secret-0000000', { mode: 0o600 });
            config.gateways.real = { kind: 'litellm', url: real.url, secret: 'file:real-own.secret', admin_key: 'file:real.secret' };
            config.tenants.globex.gateway = 'real';
        },
    });
});
context(() => `${JSON.stringify(api?.calls.slice(-12))}\n${reeve?.tail(15)}`);
after(async () => {
    await reeve?.finish();
    api?.close();
    other?.close();
    await real?.close();
});

const state = async (place) => (await reeve.api('GET', `/v1/workspaces/${place}`)).body;
const keyInside = async (place) =>
    sha256((await reeve.inside(place, '/bin/sh', ['-c', 'printf %s "$ANTHROPIC_API_KEY"'])).stdout);
const aliveAre = (hashes, at = api) =>
    until(`keys alive: ${hashes.join(' ') || 'none'}`, 30000, () => JSON.stringify(at.alive.sort()) === JSON.stringify([...hashes].sort()));
async function metric(name) {
    const text = (await reeve.api('GET', '/metrics', { key: 'fleet owner' })).text;
    return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)[1]);
}
const act = async (place, action) => {
    const got = await reeve.api('POST', `/v1/workspaces/${place}/${action}?wait=60s`);
    assert.equal(got.status, 200, got.text);
    return got.body;
};

test('made, blocked, renewed, revoked', { timeout: 120000 }, async () => {
    const made = await reeve.workspace('k/life', { body: { user: 'u-7' } });
    const first = await keyInside('k/life');
    assert.deepEqual(api.alive, [first]);
    const row = api.keys.get(first);
    assert.ok(row.key_alias.startsWith(`${made.id}-g1-`), row.key_alias);
    assert.deepEqual(row.metadata, {
        reeve_tenant: 'acme',
        reeve_namespace: 'k',
        reeve_workspace: 'life',
        reeve_workspace_id: made.id,
        reeve_user: 'u-7',
    });
    assert.equal(api.calls.length, 1, 'one call was enough');
    await act('k/life', 'suspend');
    await until('blocked', 30000, () => api.keys.get(first)?.blocked === true);
    assert.equal((await act('k/life', 'resume')).state, 'ready');
    const second = await keyInside('k/life');
    assert.notEqual(second, first, 'another process, another key');
    await aliveAre([second]);
    assert.equal((await act('k/life', 'restart')).state, 'ready');
    const third = await keyInside('k/life');
    assert.notEqual(third, second);
    await aliveAre([third]);
    await reeve.restart();
    await until('ready again', 30000, async () => (await state('k/life')).state === 'ready');
    assert.equal(await keyInside('k/life'), third, 'adopted with what it has');
    assert.equal(api.generated, 3);
    await reeve.remove('k/life');
    await until('no key is left', 30000, () => api.keys.size === 0);
    assert.equal(api.deleted, 3);
    await until('nothing to revoke', 30000, async () => (await metric('reeve_gateway_keys_to_revoke')) === 0);
});

test('the document allows all that was asked, and nothing else', () => {
    assert.ok(api.calls.length > 5);
    assert.deepEqual(api.wrong, []);
    const asked = (path, body) => {
        try {
            api.check('POST', new URL(path, api.url), body);
        } catch (e) {
            return e.message;
        }
        return undefined;
    };
    assert.equal(asked('/key/block', { key: 'x' }), undefined);
    assert.match(asked('/key/block', { keys: ['x'] }), /key is missing/);
    assert.match(asked('/key/delete', { keys: 'x' }), /expected array/);
    assert.match(asked('/key/generate', { key_name: 'x' }), /not in the document/);
    assert.match(asked('/key/revoke', { key: 'x' }), /does not have it/);
    return Promise.resolve();
});

test('the real proxy without a database: its own words as the reason', { timeout: 120000 }, async () => {
    const key = 'globex owner';
    await reeve.api('PUT', '/v1/workspaces/k/real?wait=0s', { key });
    const told = await until('a reason', 60000, async () => {
        const w = (await reeve.api('GET', '/v1/workspaces/k/real', { key })).body;
        return w.reason && w;
    });
    assert.match(told.reason, /^gateway real: key\/generate: 500/);
    await reeve.remove('k/real', { key });
    await until('it is to be revoked', 30000, async () => (await metric('reeve_gateway_keys_to_revoke')) > 0);
    await real.close(); // and it waits; nothing else does
});

test('whatever it answers, it says so and goes on', { timeout: 180000 }, async () => {
    const reasons = {
        401: /^gateway litellm: key\/generate: 401: it refuses our `admin_key`$/,
        500: /^gateway litellm: key\/generate: 500/,
        garbage: /^gateway litellm: key\/(generate|info): /,
        away: /^gateway litellm: key\/generate: /,
    };
    for (const [mode, reason] of Object.entries(reasons)) {
        api.modes = { '*': mode };
        await reeve.api('PUT', `/v1/workspaces/k/w-${mode}?wait=0s`);
        const told = await until(`the reason of ${mode}`, 30000, async () => {
            const w = await state(`k/w-${mode}`);
            return w.reason && w;
        });
        assert.match(told.reason, reason);
        assert.ok(!told.reason.includes(adminKey));
        assert.equal(reeve.sandboxes().filter((s) => s.startsWith(told.id.replaceAll('_', '-'))).length, 0, 'no sandbox before its key');
        api.modes = {};
        await until(`ready after ${mode}`, 90000, async () => (await state(`k/w-${mode}`)).state === 'ready');
        assert.ok(api.alive.includes(await keyInside(`k/w-${mode}`)));
        await reeve.remove(`k/w-${mode}`);
    }
    for (const mode of ['slow', 'lost']) { // the answers are late, or never come though it was done
        api.modes = { '/key/generate': mode };
        const before = api.generated;
        await reeve.api('PUT', `/v1/workspaces/k/w-${mode}?wait=0s`);
        await until('it was asked', 30000, () => api.generated > before);
        api.modes = {};
        await until(`ready after ${mode}`, 90000, async () => (await state(`k/w-${mode}`)).state === 'ready');
        assert.equal(api.generated, before + 1);
        assert.ok(api.alive.includes(await keyInside(`k/w-${mode}`)));
        await reeve.remove(`k/w-${mode}`);
    }
    await until('no key is left', 60000, () => api.keys.size === 0);
});

test('away while a workspace is deleted, and Reeve is killed: revoked once, when it is back', { timeout: 180000 }, async () => {
    await reeve.workspace('k/gone');
    await reeve.workspace('k/stays');
    const stays = await keyInside('k/stays');
    const gone = await keyInside('k/gone');
    const before = api.deleted;
    const waiting = await metric('reeve_gateway_keys_to_revoke'); // of the real one
    api.modes = { '/key/delete': 'away', '/key/info': 'away' };
    await reeve.remove('k/gone');
    assert.equal((await reeve.api('GET', '/v1/workspaces/k/gone')).status, 404, 'the sandbox does not wait for it');
    await until('it was asked in vain', 30000, () => api.calls.some((c) => c.path === '/key/delete' && c.body === undefined && c.mode === 'away'));
    assert.equal(await metric('reeve_gateway_keys_to_revoke'), waiting + 1);
    await reeve.restart('SIGKILL');
    await until('counted again', 30000, async () => (await metric('reeve_gateway_keys_to_revoke')) === waiting + 1);
    assert.ok(api.alive.includes(gone));
    api.modes = { '/key/delete': 'garbage', '/key/info': '500' }; // back, but not well
    const asked = api.calls.length;
    await until('asked again', 60000, () => api.calls.length > asked + 1);
    await reeve.restart('SIGKILL');
    api.modes = {};
    await aliveAre([stays]);
    assert.equal(api.deleted, before + 1);
    await until('nothing more to revoke', 30000, async () => (await metric('reeve_gateway_keys_to_revoke')) === waiting);
    await until('ready again', 30000, async () => (await state('k/stays')).state === 'ready');
    assert.equal(await keyInside('k/stays'), stays);
    await reeve.remove('k/stays');
    await aliveAre([]);
});

test('a tenant that goes to another gateway takes its keys along', { timeout: 180000 }, async () => {
    await reeve.workspace('k/moves');
    const key = await keyInside('k/moves');
    const verify = (gateway, secret) =>
        reeve.api('POST', `/v1/gateways/${gateway}/keys/verify`, { key: null, headers: { authorization: `Bearer ${secret}` }, body: { key_hash: key } });
    assert.equal((await verify('second', 'second-gateway-secret-000000')).body.valid, false, 'not its business');
    reeve.config.tenants.acme.gateway = 'second';
    reeve.writeConfig();
    const applied = await reeve.api('POST', '/v1/reload', { key: 'fleet owner' });
    assert.equal(applied.status, 200, applied.text);
    await aliveAre([key], other);
    await aliveAre([], api);
    assert.equal((await state('k/moves')).state, 'ready');
    assert.equal(await keyInside('k/moves'), key, 'the process has gone on');
    const told = (await verify('second', 'second-gateway-secret-000000')).body;
    assert.deepEqual([told.valid, told.tenant, told.workspace], [true, 'acme', 'moves']);
    await reeve.remove('k/moves');
    await aliveAre([], other);
});

test('all of it was as the document says', () => {
    assert.deepEqual([...api.wrong, ...other.wrong], []);
    return Promise.resolve();
});
