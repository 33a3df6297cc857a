// findOrCreate: however many ask at once, there is one sandbox, one id, one "made".
import assert from 'node:assert/strict';
import http from 'node:http';
import { Reeve, until } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

let reeve;

before(async () => {
    reeve = await Reeve.start({ tag: 'once' });
    reeve.agent = new http.Agent({ keepAlive: true, maxSockets: 256 });
});
context(() => reeve?.tail(15));
after(async () => {
    reeve?.agent.destroy();
    await reeve?.finish();
});

const count = (list) => {
    const n = {};
    for (const it of list) n[it] = (n[it] ?? 0) + 1;
    return n;
};

test('200 at once for one workspace: one 201, one id, one sandbox', { timeout: 120000 }, async () => {
    const answers = await Promise.all(
        Array.from({ length: 200 }, (_, i) =>
            i % 2 === 0
                ? reeve.api('PUT', '/v1/workspaces/alice/once?wait=60s')
                : reeve.api('POST', '/v1/workspaces/find-or-create?wait=60s', { body: { namespace: 'alice', name: 'once' } }),
        ),
    );
    assert.deepEqual(count(answers.map((a) => a.status)), { 200: 199, 201: 1 });
    assert.deepEqual(Object.keys(count(answers.map((a) => a.body.id))).length, 1);
    assert.deepEqual(count(answers.map((a) => a.body.state)), { ready: 200 });
    assert.equal(reeve.sandboxes().length, 1, reeve.sandboxes().join(' '));
    assert.equal((await reeve.workspaces('acme')).length, 1);
    assert.equal((await reeve.api('GET', '/w/alice/once/v1/health')).status, 200);
});

test('50 different ones at once: all ready, each once', { timeout: 240000 }, async () => {
    const names = Array.from({ length: 50 }, (_, i) => `many/w${i}`);
    // each is asked for twice
    const answers = await Promise.all([...names, ...names].map((n) => reeve.api('PUT', `/v1/workspaces/${n}?wait=120s`, { timeout: 180000 })));
    assert.deepEqual(count(answers.map((a) => a.body.state)), { ready: 100 }, answers.find((a) => a.body.state !== 'ready')?.text);
    assert.deepEqual(count(answers.map((a) => a.status)), { 200: 50, 201: 50 });
    assert.equal(new Set(answers.map((a) => a.body.id)).size, 50);
    for (let i = 0; i < 50; i++) assert.equal(answers[i].body.id, answers[i + 50].body.id);
    const healthy = await Promise.all(names.map((n) => reeve.api('GET', `/w/${n}/v1/health`)));
    assert.deepEqual(count(healthy.map((a) => a.status)), { 200: 50 });
    assert.equal(reeve.sandboxes().length, 51);

    const gone = await Promise.all(names.map((n) => reeve.api('DELETE', `/v1/workspaces/${n}?wait=120s`, { timeout: 180000 })));
    for (const g of gone) assert.ok(g.status === 204 || g.status === 202, g.text);
    await until('their sandboxes are gone', 60000, () => reeve.sandboxes().length === 1);
    assert.deepEqual(
        (await reeve.workspaces('acme')).map((w) => w.name),
        ['once'],
    );
});

test('the same names in two tenants are two workspaces', { timeout: 120000 }, async () => {
    const keys = ['acme owner', 'globex owner'];
    const made = await Promise.all([...keys, ...keys].map((key) => reeve.api('PUT', '/v1/workspaces/shared/name?wait=60s', { key })));
    assert.deepEqual(count(made.map((a) => a.status)), { 200: 2, 201: 2 }, made.map((a) => a.text).join('\n'));
    assert.equal(made[0].body.id, made[2].body.id);
    assert.equal(made[1].body.id, made[3].body.id);
    assert.notEqual(made[0].body.id, made[1].body.id);
    await reeve.put('shared/name', 'whose', 'acme');
    await reeve.put('shared/name', 'whose', 'globex', { key: 'globex owner' });
    for (const tenant of ['acme', 'globex']) {
        const read = await reeve.api('GET', '/w/shared/name/v1/fs/file?path=whose', { key: `${tenant} owner` });
        assert.equal(read.text, tenant);
    }
    await reeve.remove('shared/name');
    const still = await reeve.api('GET', '/w/shared/name/v1/fs/file?path=whose', { key: 'globex owner' });
    assert.equal(still.text, 'globex');
});

test('asked again it is found; another wish is a conflict that names the field', async () => {
    const again = await reeve.api('PUT', '/v1/workspaces/alice/once?wait=60s', { body: {} });
    assert.equal(again.status, 200);
    const made = await reeve.api('PUT', '/v1/workspaces/alice/labelled?wait=60s', { body: { labels: { team: 'red' }, env: { A: '1' }, user: 'u1' } });
    assert.equal(made.status, 201, made.text);
    assert.deepEqual(made.body.labels, { team: 'red' });
    for (const [field, body] of [
        ['labels', { labels: { team: 'blue' } }],
        ['env', { env: { A: '2' } }],
        ['user', { user: 'u2' }],
    ]) {
        const other = await reeve.api('PUT', '/v1/workspaces/alice/labelled', { body });
        assert.equal(other.status, 409, `${field}: ${other.text}`);
        assert.ok(other.body.detail.includes(field), other.text);
    }
    const same = await reeve.api('PUT', '/v1/workspaces/alice/labelled?wait=60s', { body: { labels: { team: 'red' } } });
    assert.equal(same.status, 200, same.text);
    const listed = await reeve.api('GET', '/v1/workspaces?label=team%3Dred');
    assert.deepEqual(
        listed.body.items.map((w) => w.name),
        ['labelled'],
    );
});

test('made while it is being deleted: a new one, with another id and an empty home', { timeout: 120000 }, async () => {
    const first = await reeve.workspace('alice/again');
    await reeve.put('alice/again', 'old', 'of the first');
    const [gone, made] = await Promise.all([
        reeve.api('DELETE', '/v1/workspaces/alice/again'),
        reeve.api('PUT', '/v1/workspaces/alice/again?wait=60s'),
    ]);
    assert.ok([202, 204].includes(gone.status), gone.text);
    // whichever came first, in the end there is one, and what was deleted is not in it
    const last = made.body?.id !== first.id && made.body?.state === 'ready' ? made.body : await reeve.workspace('alice/again');
    assert.notEqual(last.id, first.id);
    const read = await reeve.api('GET', '/w/alice/again/v1/fs/file?path=old');
    assert.equal(read.status, 400, 'a new home is empty');
});

test('suspended, it keeps its home; asked for, it wakes', { timeout: 120000 }, async () => {
    await reeve.put('alice/once', 'kept', 'through sleep');
    const slept = await reeve.api('POST', '/v1/workspaces/alice/once/suspend?wait=60s');
    assert.equal(slept.status, 200, slept.text);
    assert.equal(slept.body.state, 'suspended');
    const asleep = await reeve.api('GET', '/w/alice/once/v1/fs/file?path=kept');
    assert.equal(asleep.status, 503, 'what an operator suspended is not woken by traffic');
    const woken = await reeve.api('PUT', '/v1/workspaces/alice/once?wait=60s');
    assert.equal(woken.status, 200, woken.text);
    assert.equal(woken.body.state, 'ready');
    assert.equal((await reeve.api('GET', '/w/alice/once/v1/fs/file?path=kept')).text, 'through sleep');
});

test('state changes as events, and where one left off', { timeout: 120000 }, async () => {
    await reeve.workspace('alice/told');
    const read = (last, enough) =>
        new Promise((resolve, reject) => {
            const events = [];
            const rq = http.request(
                `${reeve.url}/v1/workspaces/alice/told/events`,
                { headers: { authorization: `Bearer ${reeve.key('acme viewer')}`, ...(last ? { 'last-event-id': last } : {}) } },
                (answer) => {
                    let rest = '';
                    answer.setEncoding('utf8');
                    answer.on('data', (part) => {
                        const blocks = (rest + part).split('\n\n');
                        rest = blocks.pop();
                        for (const b of blocks) {
                            const id = /^id: (.*)$/m.exec(b)?.[1];
                            const data = /^data: (.*)$/m.exec(b)?.[1];
                            if (data) events.push({ id, ...JSON.parse(data) });
                        }
                        if (events.length >= enough) {
                            rq.destroy();
                            resolve(events);
                        }
                    });
                },
            );
            rq.on('error', (e) => (events.length >= enough ? undefined : reject(e)));
            rq.setTimeout(20000, () => rq.destroy(new Error(`only ${JSON.stringify(events)}`)));
            rq.end();
        });
    const states = (await read(undefined, 2)).map((e) => e.state);
    assert.ok(states.includes('ready') || states.includes('provisioning'), JSON.stringify(states));
    const all = await read(undefined, 2);
    const later = read(all.at(-1).id, 1);
    await reeve.api('POST', '/v1/workspaces/alice/told/suspend?wait=60s');
    const more = await later;
    assert.ok(Number(more[0].id) > Number(all.at(-1).id));
});
