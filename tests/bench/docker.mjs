// From a PUT of a workspace that does not exist to its answer "ready", in containers: one at a time, and eight at once. The
// peer is the engine itself with the same image and the same server, `docker run --network none` by its API, until the
// server's health is 200, asked from inside its network. They alternate.
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { Docker } from '../e2e/docker.mjs';
import { Reeve, root } from '../e2e/lib.mjs';
import { allCpus, median, pin, quantile, spread } from './measure.mjs';

const TIMES = 15;
const CROWD = 8;
const ROUNDS = 5;
const IMAGE = 'reeve-bench';

function run(command, args) {
    const made = spawnSync(command, args, { encoding: 'utf8' });
    if (made.status !== 0) throw new Error(`${command}: ${made.error?.message ?? made.stderr}`);
}

/** A root file system of a few programs, in the engine. */
function image(docker) {
    const [rootfs, tar] = ['rootfs', 'rootfs.tar'].map((name) => path.join(docker.folder, name));
    run(path.join(root, 'tests/unit/docker_rootfs.sh'), [rootfs]);
    run('tar', ['-C', rootfs, '-cf', tar, '.']);
    run('curl', [
        ...['-sS', '--fail', '-o', '/dev/null', '--unix-socket', docker.socket, '-X', 'POST', '-H', 'Content-Type: application/x-tar', '-T', tar],
        `http://engine/images/create?fromSrc=-&repo=${IMAGE}&tag=latest`,
    ]);
}

const ended = (child) => new Promise((resolve, reject) => child.on('error', reject).on('close', resolve));

/** The engine's own: create, start, until the server answers. */
async function bare(docker, binary) {
    const made = await docker.api('POST', '/containers/create', {
        Image: IMAGE,
        Entrypoint: ['/opt/server'],
        Cmd: ['--no-token', 'server', '--host', '127.0.0.1', '--port', '2468', '--no-telemetry'],
        HostConfig: { NetworkMode: 'none', Mounts: [{ Type: 'bind', Source: binary, Target: '/opt/server', ReadOnly: true }] },
    });
    const id = made.body.Id;
    const started = await docker.api('POST', `/containers/${id}/start`);
    if (started.status !== 204) throw new Error(`start: ${started.status} ${started.text}`);
    const { Pid } = (await docker.inspect(id)).State;
    const asking = 'until curl -sf -o /dev/null http://127.0.0.1:2468/v1/health; do :; done';
    await ended(spawn('nsenter', ['-t', String(Pid), '-n', 'sh', '-c', asking], { stdio: 'ignore' }));
    return id;
}

async function took(work) {
    const from = process.hrtime.bigint();
    const got = await work();
    return [Number(process.hrtime.bigint() - from) / 1e6, got];
}

const numbers = (n) => Array.from({ length: n }, (_, i) => i);

async function compare(docker, reeve, binary, n, times) {
    const [mine, theirs] = [[], []];
    for (let i = 0; i < times; i++) {
        const names = numbers(n).map((k) => `bench/w${i}-${k}`);
        const [ms] = await took(() => Promise.all(names.map((name) => reeve.workspace(name))));
        mine.push(ms);
        await Promise.all(names.map((name) => reeve.remove(name)));
        const [other, ids] = await took(() => Promise.all(names.map(() => bare(docker, binary))));
        theirs.push(other);
        await Promise.all(ids.map((id) => docker.api('DELETE', `/containers/${id}?force=1&v=1`)));
    }
    return [mine, theirs];
}

export default async function (figure) {
    const docker = await Docker.start();
    let reeve;
    try {
        image(docker);
        reeve = await Reeve.start({
            tag: 'bench',
            edit: (config) => {
                config.providers = { box: { ...config.providers.local, kind: 'docker', endpoint: docker.endpoint } };
                config.templates.coding = { providers: ['box'], image: IMAGE, resources: { memory: '512MiB', cpus: 2, processes: 256 } };
            },
        });
        pin(reeve.pid, allCpus);
        const binary = fs.realpathSync(reeve.config.providers.box.agent_binary);
        await reeve.workspace('bench/first');
        await docker.api('DELETE', `/containers/${await bare(docker, binary)}?force=1`); // warm
        for (const [n, times, name] of [
            [1, TIMES, 'Docker: cold findOrCreate to ready'],
            [CROWD, ROUNDS, `Docker: ${CROWD} at once, to the last one ready`],
        ]) {
            const [mine, theirs] = await compare(docker, reeve, binary, n, times);
            figure({
                name: `${name}, median of ${times}`,
                value: `${median(mine).toFixed(0)} ms (${spread(mine, 0)})`,
                target: 'peer + 20 ms',
                peer: `the engine alone ${median(theirs).toFixed(0)} ms (${spread(theirs, 0)})`,
                met: median(mine) <= median(theirs) + 20,
                data: { took_ms: mine, engine_ms: theirs, p90_ms: quantile(mine, 0.9) },
            });
        }
    } finally {
        await reeve?.finish();
        await docker.finish();
    }
}
