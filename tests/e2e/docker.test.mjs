// Containers as the sandboxes of workspaces: what the engine gets to know, what becomes of a workspace when its container,
// its memory, its disk or its engine goes, and what a crowd leaves behind.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { Docker, needDocker } from './docker.mjs';
import { needSandboxes, Reeve, sleep, until } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

let docker;
let reeve;

before(async () => {
    needDocker();
    needSandboxes();
    docker = await Docker.start();
    await docker.image();
    reeve = await Reeve.start({
        tag: 'docker',
        engine: docker,
        edit: (config) => {
            const coding = { ...config.templates.coding };
            config.templates.small = { ...coding, resources: { memory: '96MiB', processes: 64 } };
            config.templates.missing = { ...coding, image: 'reeve.invalid/no/such:image' };
            config.templates.frozen = { ...coding, idle: { suspend_after: '365d', suspend: 'freeze' } };
            config.tenants.acme.templates = ['coding', 'small', 'missing', 'frozen'];
        },
    });
});
context(() => `${reeve?.tail(15)}\n${docker?.crash() ?? ''}`);
after(async () => {
    await reeve?.finish();
    if (!docker) return;
    const left = [...(await docker.containers()).map((c) => c.Names[0]), ...(await docker.volumes()).map((v) => v.Name)];
    await docker.finish();
    assert.deepEqual(left, [], 'nothing of Reeve is left in the engine');
});

const show = async (place) => (await reeve.api('GET', `/v1/workspaces/${place}`)).body;
const becomes = (place, what, ms = 60000) =>
    until(`${place} is as expected`, ms, async () => what(await show(place))).catch(async (e) => assert.fail(`${e.message}: ${JSON.stringify(await show(place))}`));
async function containerOf(place) {
    const { id } = await show(place);
    const all = (await docker.containers()).filter((c) => c.Labels['reeve.workspace'] === id);
    assert.equal(all.length, 1, JSON.stringify(all));
    return docker.inspect(all[0].Id);
}
const home = async (place) => (await reeve.api('GET', `/w/${place}/v1/fs/file?path=kept`)).text;

test('what the engine knows: no token, no key; and how little the container may', { timeout: 90000 }, async () => {
    await reeve.workspace('alice/dev', { body: { env: { COLOUR: 'of-the-caller' } } });
    await reeve.put('alice/dev', 'kept', 'the home of alice');
    const { stdout } = await reeve.inside('alice/dev', '/bin/sh', ['-c', 'env; cat /proc/[0-9]*/cmdline | tr "\\0" "\\n"']);
    const secrets = [/^ANTHROPIC_API_KEY=(.*)$/m.exec(stdout)?.[1], /^OPENAI_API_KEY=(.*)$/m.exec(stdout)?.[1], /^--token\n(.*)$/m.exec(stdout)?.[1]];
    for (const s of secrets) assert.ok(s?.length >= 32, 'a key and the token of the server are seen from inside');
    const it = await containerOf('alice/dev');
    const known = JSON.stringify([it, await docker.get('/images/json?all=1'), await docker.volumes(), await docker.get('/events?since=1&until=' + Math.ceil(Date.now() / 1000)).catch((e) => e.message)]);
    for (const s of secrets) assert.ok(!known.includes(s), 'the engine knows a secret');
    assert.ok(!known.includes('of-the-caller'), "nor the caller's own environment");
    const h = it.HostConfig;
    assert.deepEqual(
        [h.NetworkMode, h.CapDrop, h.CapAdd, h.ReadonlyRootfs, h.Privileged, h.IpcMode, h.RestartPolicy.Name, h.AutoRemove, it.Config.User],
        ['none', ['ALL'], null, true, false, 'private', 'no', false, '1000:1000'],
    );
    assert.match(h.SecurityOpt.join(), /^no-new-privileges(:true)?$/, "and the engine's own seccomp profile");
    assert.deepEqual(Object.keys(it.NetworkSettings.Ports ?? {}), [], 'no port is published');
});

test('the container is killed: it is made anew, with the same home', { timeout: 120000 }, async () => {
    await reeve.workspace('alice/dev');
    const was = await containerOf('alice/dev');
    const { id } = await show('alice/dev');
    assert.equal((await docker.api('POST', `/containers/${was.Id}/kill`)).status, 204);
    await until('another process runs', 60000, async () => {
        const all = await docker.containers();
        const now = all.find((c) => c.Labels['reeve.workspace'] === id && c.State === 'running');
        return now && (await docker.inspect(now.Id)).State.Pid !== was.State.Pid && (await show('alice/dev')).state === 'ready';
    });
    assert.equal((await show('alice/dev')).id, id);
    assert.equal(await home('alice/dev'), 'the home of alice');
    // removed altogether, by hand
    assert.equal((await docker.api('DELETE', `/containers/${(await containerOf('alice/dev')).Id}?force=1`)).status, 204);
    await until('it answers again', 60000, async () => (await reeve.api('GET', '/w/alice/dev/v1/health')).status === 200 && (await docker.containers()).some((c) => c.Labels['reeve.workspace'] === id));
    await becomes('alice/dev', (w) => w.state === 'ready');
    assert.equal(await home('alice/dev'), 'the home of alice');
});

for (const signal of ['SIGKILL', 'SIGTERM'])
    test(`the engine ends (${signal}) and comes back: the reason is said, the workspace heals`, { timeout: 180000 }, async () => {
        await reeve.workspace('alice/dev');
        await docker.kill(signal);
        const asked = await reeve.api('PUT', '/v1/workspaces/alice/meanwhile?wait=1s');
        assert.ok([201, 202, 503].includes(asked.status), asked.text);
        if (asked.status !== 503) await becomes('alice/meanwhile', (w) => w.state !== 'ready' && /docker\.sock|engine/i.test(w.reason ?? ''));
        else assert.match(asked.body.detail, /docker/);
        await docker.run();
        await becomes('alice/dev', (w) => w.state === 'ready', 120000);
        await until('it answers', 120000, async () => (await reeve.api('GET', '/w/alice/dev/v1/health')).status === 200);
        assert.equal(await home('alice/dev'), 'the home of alice');
        await until('what was asked for meanwhile is there', 120000, async () => (await reeve.api('PUT', '/v1/workspaces/alice/meanwhile?wait=20s&retry=1')).body?.state === 'ready');
        await reeve.remove('alice/meanwhile');
    });

test('memory runs out: what used it is ended, the sandbox serves on; init is killed: it is made anew', { timeout: 120000 }, async () => {
    await reeve.workspace('alice/small', { body: { template: 'small' } });
    await reeve.put('alice/small', 'kept', 'of the small one');
    const it = await containerOf('alice/small');
    const eat = await reeve.api('POST', '/w/alice/small/v1/processes/run', { body: { command: process.execPath, args: ['-e', 'const all = []; for (;;) all.push(Buffer.alloc(4 << 20, 1))'], timeoutMs: 60000 } });
    assert.ok(eat.status !== 200 || eat.body.exitCode !== 0, eat.text);
    await until('it serves', 60000, async () => (await reeve.api('GET', '/w/alice/small/v1/health')).status === 200);
    await becomes('alice/small', (w) => w.state === 'ready');
    assert.equal(await home('alice/small'), 'of the small one');
    process.kill(it.State.Pid, 'SIGKILL');
    await becomes('alice/small', (w) => w.state === 'ready' && w.generation >= 1, 60000);
    await until('it serves', 60000, async () => (await reeve.api('GET', '/w/alice/small/v1/health')).status === 200);
    assert.equal(await home('alice/small'), 'of the small one');
    await reeve.remove('alice/small');
});

test('an image that is not there: which, and why', { timeout: 90000 }, async () => {
    const made = await reeve.api('PUT', '/v1/workspaces/alice/missing?wait=20s', { body: { template: 'missing' } });
    assert.ok([201, 202].includes(made.status), made.text);
    await becomes('alice/missing', (w) => w.state !== 'ready' && /image reeve\.invalid\/no\/such:image cannot be pulled: ./.test(w.reason ?? ''));
    await reeve.remove('alice/missing');
});

test('frozen: nothing inside notices; a controller that comes new finds it so', { timeout: 120000 }, async () => {
    await reeve.workspace('alice/frozen', { body: { template: 'frozen' } });
    const before_ = await containerOf('alice/frozen');
    assert.equal((await reeve.api('POST', '/v1/workspaces/alice/frozen/suspend?wait=60s')).body.state, 'suspended');
    assert.equal((await containerOf('alice/frozen')).State.Paused, true);
    await reeve.restart('SIGKILL');
    assert.equal((await show('alice/frozen')).state, 'suspended');
    assert.equal((await reeve.api('POST', '/v1/workspaces/alice/frozen/resume?wait=60s')).body.state, 'ready');
    const now = await containerOf('alice/frozen');
    assert.deepEqual([now.Id, now.State.Pid, now.State.Paused], [before_.Id, before_.State.Pid, false]);
    await reeve.remove('alice/frozen');
});

test('a crowd: 30 at once, then 30 deletes: nothing is left', { timeout: 300000 }, async () => {
    const descriptors = () => fs.readdirSync(`/proc/${reeve.pid}/fd`).length;
    const sandboxes = () => fs.readdirSync(path.join(reeve.folder, 'data/docker/sandboxes'));
    const mounts = docker.mounts().length;
    const was = { descriptors: descriptors(), sandboxes: sandboxes().length, containers: (await docker.containers()).length, volumes: (await docker.volumes()).length };
    const places = Array.from({ length: 30 }, (_, i) => `crowd/w${i}`);
    const made = await Promise.all(places.map((p) => reeve.api('PUT', `/v1/workspaces/${p}?wait=200s`, { timeout: 240000 })));
    assert.deepEqual([...new Set(made.map((m) => `${m.status} ${m.body.state}`))], ['201 ready'], made.find((m) => m.body.state !== 'ready')?.text);
    const healthy = await Promise.all(places.map((p) => reeve.api('GET', `/w/${p}/v1/health`)));
    assert.ok(healthy.every((h) => h.status === 200));
    assert.equal((await docker.containers()).filter((c) => c.State === 'running').length, was.containers + 30);
    await Promise.all(places.map((p) => reeve.remove(p)));
    await until('all are gone', 60000, async () => (await docker.containers()).length === was.containers && (await docker.volumes()).length === was.volumes);
    await until('their sockets are gone', 20000, () => sandboxes().length === was.sandboxes);
    await until('their mounts are gone', 20000, () => docker.mounts().length <= mounts);
    await until(`${was.descriptors} descriptors`, 30000, () => descriptors() <= was.descriptors).catch((e) => assert.fail(`${e.message}, now ${descriptors()}`));
});

test('a full disk: said, and over when there is room', { timeout: 240000 }, async () => {
    const small = await Docker.start({ dataBytes: 340 << 20 });
    let other;
    try {
        await small.image();
        other = await Reeve.start({ tag: 'full', engine: small });
        await other.workspace('alice/dev');
        await other.put('alice/dev', 'kept', 'before');
        const fill = await other.inside('alice/dev', '/bin/sh', ['-c', 'head -c 400000000 /dev/zero > zeros'], { timeoutMs: 60000 });
        assert.notEqual(fill.exitCode, 0);
        assert.match(fill.stderr, /No space left on device/);
        assert.equal((await other.api('GET', '/w/alice/dev/v1/health')).status, 200, 'who is there is served');
        await other.api('PUT', '/v1/workspaces/bob/dev?wait=5s');
        const said = await until('the reason', 60000, async () => {
            const bob = (await other.api('GET', '/v1/workspaces/bob/dev')).body;
            return bob.state !== 'ready' && bob.reason ? bob.reason : undefined;
        });
        assert.match(said, /no space left on device/i);
        assert.equal((await other.inside('alice/dev', '/bin/rm', ['zeros'])).exitCode, 0);
        await until('it is made', 120000, async () => (await other.api('PUT', '/v1/workspaces/bob/dev?wait=20s&retry=1')).body?.state === 'ready');
        await other.finish();
        assert.deepEqual(await small.volumes(), []);
    } finally {
        other?.destroy();
        await small.finish();
    }
});
