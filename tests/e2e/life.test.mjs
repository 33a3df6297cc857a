// A workspace's life as its owner sees it: sleep and waking, limits, quotas, keys that come and go, what survives.
import assert from 'node:assert/strict';
import { needNodeInside, prompt, Reeve, sleep, until, within } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

let reeve;

before(async () => {
    needNodeInside();
    reeve = await Reeve.start({
        tag: 'life',
        edit: (config) => {
            config.templates.sleepy = { providers: ['local'], server: { agents: ['mock'] }, idle: { suspend_after: '2s' } };
            config.templates.small = { providers: ['local'], resources: { memory: '512MiB', processes: 64, cpus: 1 } };
            config.tenants.acme.templates = ['coding', 'sleepy', 'small'];
            config.tenants.globex.quotas = { workspaces: 4, running: 3, creates_per_minute: 1000, namespace: { running: 2 } };
        },
    });
});
context(() => reeve?.tail(15));
after(() => reeve?.finish());

const state = async (place, key) => (await reeve.api('GET', `/v1/workspaces/${place}`, { key })).body;
const asleep = (place) => until(`${place} sleeps`, 20000, async () => (await state(place)).state === 'suspended');

test('idle, it sleeps; a request wakes it, and its home is as it was', { timeout: 90000 }, async () => {
    const place = 'idle/one';
    const made = await reeve.workspace(place, { body: { template: 'sleepy' } });
    await reeve.put(place, 'kept', 'before sleep');
    await asleep(place);
    assert.equal((await state(place)).suspended_by, 'idle');
    await until('nothing runs', 5000, () => !reeve.sandboxes().some((s) => s.startsWith(made.id.replaceAll('_', '-'))));
    const read = await reeve.api('GET', `/w/${place}/v1/fs/file?path=kept`);
    assert.deepEqual([read.status, read.text], [200, 'before sleep'], 'it wakes and the request is answered');
    assert.equal((await state(place)).id, made.id);
    // the client library, too: its first call polls health until it is awake
    await asleep(place);
    const client = await reeve.connect(place);
    const woken = await within(20000, 'waking', Promise.race([client.statFs({ path: 'kept' }), sleep(20000)]));
    assert.equal(woken?.size, 12);
    await client.dispose();
    // twenty at once wake it once
    await asleep(place);
    const all = await Promise.all(Array.from({ length: 20 }, () => reeve.api('GET', `/w/${place}/v1/fs/file?path=kept`)));
    assert.ok(all.every((r) => r.status === 200 && r.text === 'before sleep'), all.find((r) => r.status !== 200)?.text);
    await reeve.remove(place);
});

test('what works does not sleep: a long prompt, a terminal', { timeout: 90000 }, async () => {
    const place = 'idle/busy';
    await reeve.workspace(place, { body: { template: 'sleepy' } });
    await reeve.agentInto(place);
    const client = await reeve.connect(place);
    const session = await client.createSession({ agent: 'mock' });
    const got = await prompt(session, 'sleep 6000', { count: 0 });
    assert.equal(got.stopReason, 'end_turn');
    assert.equal((await state(place)).state, 'ready');
    await client.dispose();
    await asleep(place);
    await reeve.remove(place);
});

test('what an operator suspended stays asleep until somebody asks for it', { timeout: 60000 }, async () => {
    const place = 'idle/stopped';
    await reeve.workspace(place);
    assert.equal((await reeve.api('POST', `/v1/workspaces/${place}/suspend?wait=60s`)).body.state, 'suspended');
    assert.equal((await reeve.api('POST', `/v1/workspaces/${place}/suspend?wait=60s`)).status, 200, 'twice is once');
    const refused = await reeve.api('GET', `/w/${place}/v1/fs/entries?path=.`);
    assert.equal(refused.status, 503, refused.text);
    assert.match(refused.body.detail, /suspend/);
    const posted = await reeve.api('POST', `/w/${place}/v1/acp/x?agent=mock`, { body: { jsonrpc: '2.0', id: 3, method: 'initialize', params: {} } });
    assert.deepEqual([posted.status, posted.body.id, typeof posted.body.error.code], [200, 3, 'number'], posted.text);
    await reeve.restart('SIGKILL');
    await sleep(500);
    assert.equal((await state(place)).state, 'suspended', 'also after a crash');
    assert.equal((await reeve.api('POST', `/v1/workspaces/${place}/resume?wait=60s`)).body.state, 'ready');
    assert.equal((await reeve.api('GET', `/w/${place}/v1/health`)).status, 200);
    await reeve.remove(place);
});

test('quotas: of workspaces, of running ones, of a namespace', { timeout: 90000 }, async () => {
    const key = 'globex owner';
    const put = (place) => reeve.api('PUT', `/v1/workspaces/${place}?wait=60s`, { key });
    // many at once: never more than allowed
    const crowd = await Promise.all(Array.from({ length: 12 }, (_, i) => put(`one/w${i}`)));
    const made = crowd.filter((a) => a.status === 201);
    const refused = crowd.filter((a) => a.status === 429);
    assert.deepEqual([made.length, refused.length], [2, 10], crowd.map((a) => `${a.status} ${a.body.detail ?? ''}`).join('\n'));
    for (const r of refused) assert.equal(r.body.code, 'quota_exceeded');
    assert.equal((await put('two/a')).status, 201);
    const over = await put('two/b');
    assert.deepEqual([over.status, over.body.code], [429, 'quota_exceeded'], over.text);
    assert.equal((await put(`one/${made[0].body.name}`)).status, 200, 'what is there is found');
    // asleep does not count as running
    assert.equal((await reeve.api('POST', `/v1/workspaces/two/a/suspend?wait=60s`, { key })).status, 200);
    assert.equal((await put('three/a')).status, 201);
    const full = await put('three/b');
    assert.deepEqual([full.status, full.body.code], [429, 'quota_exceeded'], full.text);
    const wake = await put('two/a');
    assert.equal(wake.status, 429, 'waking counts');
    for (const w of await reeve.workspaces('globex')) await reeve.remove(`${w.namespace}/${w.name}`, { key });
    assert.equal((await put('four/a')).status, 201);
    await reeve.remove('four/a', { key });
});

test('processes and memory of one are its own trouble', { timeout: 90000 }, async () => {
    const place = 'limits/one';
    await reeve.workspace(place, { body: { template: 'small' } });
    await reeve.workspace('limits/other', { body: { template: 'small' } });
    const forks = await reeve.inside(place, '/bin/sh', ['-c', 'i=0; while [ $i -lt 300 ]; do sleep 3 & i=$((i+1)); done 2>&1; echo survived'], { timeoutMs: 20000 });
    assert.ok(/fork|resource|retry/i.test(forks.stdout + forks.stderr) || forks.exitCode !== 0, `300 processes were let: ${forks.stdout}`);
    assert.equal((await reeve.inside('limits/other', '/bin/echo', ['fine'])).stdout, 'fine\n');
    await sleep(3500);
    const script = 'const a=[];try{for(let i=0;i<40;i++)a.push(Buffer.alloc(64<<20,1));console.log("all")}catch(e){console.log("no more")}';
    const memory = await reeve.api('POST', `/w/${place}/v1/processes/run`, { body: { command: process.execPath, args: ['-e', script], timeoutMs: 20000 } });
    assert.ok(!(memory.body?.stdout ?? '').includes('all'), `2.5 GiB of 512 MiB: ${memory.text}`);
    assert.equal((await reeve.inside('limits/other', '/bin/echo', ['fine'])).stdout, 'fine\n');
    await until('it answers again', 30000, async () => (await reeve.api('GET', `/w/${place}/v1/health`)).status === 200);
    await reeve.remove(place);
    await reeve.remove('limits/other');
});

test("a sandbox's first process is killed from outside: it is made anew, with the same home", { timeout: 90000 }, async () => {
    const place = 'broken/one';
    const made = await reeve.workspace(place);
    await reeve.put(place, 'kept', 'still');
    const mine = () => reeve.processes().filter((p) => p.args.join(' ').includes(made.id.replaceAll('_', '-')));
    assert.ok(mine().length > 0);
    for (const p of mine())
        try {
            process.kill(p.pid, 'SIGKILL');
        } catch {
            // its parent took it along
        }
    const read = await until('it is back', 30000, async () => {
        const got = await reeve.api('GET', `/w/${place}/v1/fs/file?path=kept`).catch(() => undefined);
        return got?.status === 200 ? got : undefined;
    });
    assert.equal(read.text, 'still');
    assert.equal((await state(place)).id, made.id);
    await reeve.remove(place);
});

test('environment: what was wished is there, and the credentials are of this workspace alone', { timeout: 60000 }, async () => {
    const env = { MY_SETTING: 'a b "c" $d\nsecond line', EMPTY: '' };
    await reeve.workspace('env/one', { body: { env } });
    await reeve.workspace('env/two');
    const read = async (place, name) => JSON.parse((await reeve.inside(place, process.execPath, ['-e', `console.log(JSON.stringify(process.env.${name} ?? null))`])).stdout);
    for (const [name, value] of Object.entries(env)) assert.equal(await read('env/one', name), value);
    assert.equal(await read('env/two', 'MY_SETTING'), null);
    const keys = [await read('env/one', 'ANTHROPIC_API_KEY'), await read('env/two', 'ANTHROPIC_API_KEY')];
    assert.ok(keys[0] && keys[1] && keys[0] !== keys[1]);
    assert.equal(await read('env/one', 'ANTHROPIC_BASE_URL'), 'http://127.0.0.1:8700');
    assert.equal(await read('env/one', 'TZ'), 'UTC');
    // not on a command line that others on the host could read, and not in the API's answers
    for (const p of reeve.processes().filter((it) => !it.args.includes('--token'))) assert.ok(!p.args.join(' ').includes(keys[0]), p.args.join(' '));
    assert.ok(!(await reeve.api('GET', '/v1/workspaces/env/one')).text.includes('second line'));
    const log = JSON.stringify(reeve.log) + reeve.text;
    assert.ok(!log.includes(keys[0]) && !log.includes('second line'), 'nor in the log');
    await reeve.remove('env/one');
    await reeve.remove('env/two');
});

test('deleted, it is gone for good: home, server, state', { timeout: 60000 }, async () => {
    const place = 'gone/one';
    const made = await reeve.workspace(place);
    await reeve.put(place, 'secret', 'x');
    const gone = await reeve.api('DELETE', `/v1/workspaces/${place}?wait=60s`);
    assert.equal(gone.status, 204, gone.text);
    assert.equal((await reeve.api('GET', `/v1/workspaces/${place}`)).status, 404);
    assert.equal((await reeve.api('GET', `/w/${place}/v1/health`)).status, 404);
    assert.equal((await reeve.api('DELETE', `/v1/workspaces/${place}`)).status, 404);
    const again = await reeve.workspace(place);
    assert.notEqual(again.id, made.id);
    assert.notEqual((await reeve.api('GET', `/w/${place}/v1/fs/file?path=secret`)).status, 200);
    const audit = await reeve.api('GET', '/v1/audit');
    const actions = audit.body.items.map((i) => i.action);
    assert.ok(actions.includes('workspace.create') && actions.includes('workspace.delete'), audit.text.slice(0, 500));
    await reeve.remove(place);
});

test('a store has one user at a time', async () => {
    const second = reeve.command('serve', '-c', reeve.file);
    assert.notEqual(second.status, 0);
    assert.equal((await reeve.api('GET', '/readyz')).status, 200);
});
