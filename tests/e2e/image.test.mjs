// `reeve image build`, as an operator uses it: from what the engine has, from a folder, from an archive; and what it says
// when it cannot.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Docker, needDocker, rootfs } from './docker.mjs';
import { runReeve } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

let docker;
let folder;

before(async () => {
    needDocker();
    docker = await Docker.start();
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'reeve-image-'));
});
context(() => docker?.tail());
after(async () => {
    if (folder) fs.rmSync(folder, { recursive: true, force: true });
    await docker?.finish();
});

/** Runs a program in a container of an image, with no network; gives what it printed. */
async function inside(image, command, user = '1000:1000') {
    const made = await docker.api('POST', '/containers/create', {
        Image: image,
        User: user,
        Entrypoint: command,
        Cmd: [],
        HostConfig: { NetworkMode: 'none' },
    });
    assert.equal(made.status, 201, made.text);
    const id = made.body.Id;
    try {
        const started = await docker.api('POST', `/containers/${id}/start`);
        assert.equal(started.status, 204, started.text);
        const ended = await docker.api('POST', `/containers/${id}/wait`);
        const log = await docker.api('GET', `/containers/${id}/logs?stdout=1&stderr=1`);
        // frames of 8 bytes and text
        return { code: ended.body.StatusCode, text: log.text.replace(/[\0\x01\x02]\0\0\0[^]{4}/g, '') };
    } finally {
        await docker.api('DELETE', `/containers/${id}?force=1`);
    }
}

test('from an archive: the server, a user, an entry point', { timeout: 180000 }, async () => {
    const made = await docker.image('reeve/agent:latest', '--agents', 'mock');
    assert.equal(made.image, 'reeve/agent:latest');
    assert.deepEqual(made.agents, ['mock']);
    const image = await docker.get('/images/reeve%2Fagent:latest/json');
    assert.equal(image.Id, made.id);
    assert.deepEqual(image.Config.Entrypoint, ['/usr/local/bin/sandbox-agent']);
    assert.equal(image.Config.WorkingDir, '/home/agent');
    assert.equal((await inside('reeve/agent', ['/usr/local/bin/sandbox-agent', '--version'])).text.trim(), 'sandbox-agent 0.4.2');
    const who = await inside('reeve/agent', ['/bin/sh', '-c', 'id -un; cd ~; pwd; touch written && echo written; node -e "console.log(os.userInfo().username)"']);
    assert.deepEqual(who.text.trim().split('\n'), ['agent', '/home/agent', 'written', 'agent']);
    assert.deepEqual(await docker.containers(), [], 'the container that it was made of is gone');
});

test('on an image of the engine, with an agent from a folder; built again it is replaced', { timeout: 120000 }, async () => {
    const own = path.join(folder, 'own');
    const deep = path.join(own, 'lib', 'x'.repeat(90), 'y'.repeat(90)); // longer than an old archive's names
    fs.mkdirSync(path.join(own, 'bin'), { recursive: true });
    fs.mkdirSync(deep, { recursive: true });
    fs.writeFileSync(path.join(deep, 'words'), 'from afar\n', { mode: 0o600 });
    fs.linkSync(path.join(deep, 'words'), path.join(own, 'again'));
    fs.writeFileSync(path.join(own, 'bin', 'own-acp'), `#!/bin/sh\ncat /usr/local/lib/reeve/agents/own/again "/usr/local/lib/reeve/agents/own/lib/${'x'.repeat(90)}/${'y'.repeat(90)}/words"\n`, { mode: 0o700 });
    const made = await docker.build('--base', 'reeve/agent:latest', '--tag', 'here.example/team/agent:1', '--agents', `own=${own}`, '--json');
    assert.equal(made.code, 0, made.err);
    const ran = await inside('here.example/team/agent:1', ['own-acp']);
    assert.deepEqual([ran.code, ran.text.trim().split('\n')], [0, ['from afar', 'from afar']], 'on the PATH, readable for everybody');
    const owner = await inside('here.example/team/agent:1', ['stat', '-c', '%u %a', '/usr/local/lib/reeve/agents/own/again']);
    assert.equal(owner.text.trim(), '0 644');
    fs.writeFileSync(path.join(own, 'bin', 'own-acp'), '#!/bin/sh\necho second\n', { mode: 0o755 });
    const again = await docker.build('--base', 'reeve/agent:latest', '--tag', 'here.example/team/agent:1', '--agents', `own=${own}`);
    assert.equal(again.code, 0, again.err);
    assert.match(again.out, /^here\.example\/team\/agent:1\s+sha256:[0-9a-f]{64}\s+\d+ MiB\n$/);
    assert.equal((await inside('here.example/team/agent:1', ['own-acp'])).text.trim(), 'second');
    const passwd = await inside('here.example/team/agent:1', ['grep', '-c', ':1000:', '/etc/passwd']);
    assert.equal(passwd.text.trim(), '1', 'the user is there once');
});

test('what a template names: its agents, its image, its engine', { timeout: 120000 }, async () => {
    const at = path.join(folder, 'named');
    const made = await runReeve(['init', at, '--listen', '127.0.0.1:0']);
    assert.equal(made.code, 0, made.err);
    const file = path.join(at, 'reeve.yaml');
    const providers = `providers:\n  here: {kind: local}\n  box: {kind: docker, endpoint: "${docker.endpoint}"}\n`;
    const template = 'templates:\n  boxed: {providers: [here, box], image: "named/by:template", server: {agents: [mock, own]}}\n';
    const rest = fs.readFileSync(file, 'utf8').replace(/^providers:\n( .*\n)+/m, providers).replace(/^templates:\n( .*\n)+/m, template).replace(/templates: \[[^\]]*\]/, 'templates: [boxed]');
    fs.writeFileSync(file, rest);
    const args = ['image', 'build', '--base', 'reeve/agent:latest', '-c', file, '--template'];
    const unknown = await runReeve([...args, 'boxed']);
    assert.deepEqual([unknown.code, /template boxed: agent `own` is not one of/.test(unknown.err)], [1, true], unknown.err);
    const built = await runReeve([...args, 'boxed', '--agents', `own=${path.join(folder, 'own')}`, '--json']);
    assert.equal(built.code, 0, built.err);
    const { image, agents } = JSON.parse(built.out);
    assert.deepEqual([image, agents.sort()], ['named/by:template', ['mock', 'own']]);
    assert.equal((await inside('named/by:template', ['own-acp'])).text.trim(), 'second');
    const none = await runReeve([...args, 'absent']);
    assert.deepEqual([none.code, /has no template `absent`/.test(none.err)], [1, true], none.err);
});

test('from a folder: owners, modes, links and names as they are', { timeout: 120000 }, async () => {
    const tree = path.join(folder, 'tree');
    fs.mkdirSync(tree);
    assert.equal(spawnSync('tar', ['-xf', rootfs(), '-C', tree, './bin', './lib', './lib64', './sbin', './usr/bin', './usr/lib64', './usr/lib', './etc']).status, 0);
    fs.writeFileSync(path.join(tree, 'etc', 'ä name'), 'x', { mode: 0o640 });
    fs.chownSync(path.join(tree, 'etc', 'ä name'), 1234, 4321);
    fs.appendFileSync(path.join(tree, 'etc', 'passwd'), 'somebody:x:1000:1000::/home/somebody:/bin/sh'); // without a newline
    spawnSync('mkfifo', [path.join(tree, 'etc', 'pipe')]);
    const made = await docker.build('--rootfs', tree, '--tag', 'tree');
    assert.equal(made.code, 0, made.err);
    const seen = await inside('tree:latest', ['/bin/sh', '-c', 'stat -c "%u %g %a" "/etc/ä name"; readlink /bin; id -un; ls /etc/pipe 2>&1 >/dev/null | wc -l']);
    assert.deepEqual(seen.text.trim().split('\n'), ['1234 4321 640', 'usr/bin', 'somebody', '1'], 'who has the id already stays');
});

test('what cannot be is said, and nothing is left', { timeout: 120000 }, async () => {
    const images = async () => (await docker.get('/images/json?all=1')).map((i) => i.Id).sort();
    const before = await images();
    const empty = path.join(folder, 'empty');
    fs.mkdirSync(path.join(empty, 'etc'), { recursive: true });
    fs.writeFileSync(path.join(folder, 'not.tar'), 'this is no archive '.repeat(100));
    const own = path.join(folder, 'own');
    for (const [args, code, words] of [
        [['--base', 'no/such:image'], 1, /base no\/such:image is not in the engine at unix:.*pull/],
        [['--base', 'reeve/agent', '--agents', 'clippy'], 1, /agent `clippy` is not one of .*clippy=FOLDER/],
        [['--base', 'reeve/agent', '--agents', `clippy=${folder}/absent`], 1, /agent clippy: .*absent/],
        [['--base', 'reeve/agent', '--agents', `claude=${own}`], 1, /agent claude: .*npm install/],
        [['--base', 'reeve/agent', '--server', `${folder}/absent`], 1, /sandbox-agent server .*absent/],
        [['--base', 'reeve/agent', '--tag', 'Not A Name'], 1, /--tag `Not A Name`: expected a name in lower case/],
        [['--base', 'reeve/agent', '--tag', 'a--/b'], 1, /image a--\/b: the engine answered \d+: invalid reference format/],
        [['--rootfs', `${folder}/absent.tar`], 1, /absent\.tar: No such file/],
        [['--rootfs', `${folder}/not.tar`], 1, /import of .*not\.tar/],
        [['--rootfs', empty, '--agents', `own=${own}`], 1, /no \/bin\/sh/],
        [['--base', 'reeve/agent', '--rootfs', empty], 2, /exactly one of --base and --rootfs/],
        [[], 2, /exactly one of --base and --rootfs/],
        [['--base', 'reeve/agent', '--endpoint', `unix://${folder}/nobody.sock`], 3, /nobody\.sock: No such file.*is the engine running/],
        [['--base', 'reeve/agent', '--endpoint', 'tcp://127.0.0.1:2375'], 1, /expected unix:\/\/\/path/],
    ]) {
        const got = await docker.build(...args);
        assert.deepEqual([got.code, got.out], [code, ''], `${args.join(' ')}: ${got.err}`);
        assert.match(got.err, words, args.join(' '));
    }
    const lonely = await runReeve(['image', 'build', '--endpoint', docker.endpoint, '--base', 'reeve/agent', '--agents', 'claude'], { PATH: folder });
    assert.equal(lonely.code, 3, lonely.err);
    assert.match(lonely.err, /npm is not installed here.*claude=FOLDER/);
    assert.deepEqual(await docker.containers(), []);
    assert.deepEqual(await images(), before);
});

test('a full disk of the engine is said, and the name is not moved', { timeout: 180000 }, async () => {
    const small = await Docker.start({ dataBytes: 300 << 20 });
    try {
        const first = await small.image('reeve/agent:latest');
        const big = path.join(folder, 'big');
        fs.mkdirSync(path.join(big, 'bin'), { recursive: true });
        fs.writeFileSync(path.join(big, 'bin', 'zeros'), Buffer.alloc(200 << 20));
        const got = await small.build('--base', 'reeve/agent', '--agents', `big=${big}`);
        assert.equal(got.code, 1, got.err);
        assert.match(got.err, /the engine's disk is full: .*no space left on device/);
        assert.equal((await small.get('/images/reeve%2Fagent:latest/json')).Id, first.id);
        assert.deepEqual(await small.containers(), []);
        const imported = await small.build('--rootfs', rootfs(), '--tag', 'second');
        assert.equal(imported.code, 1, imported.err);
        assert.match(imported.err, /no space left on device/);
    } finally {
        await small.finish();
    }
});
