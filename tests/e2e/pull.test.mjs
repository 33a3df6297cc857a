// Images that the engine does not have yet: pulled from a registry once for all who wait, with the progress in the
// workspace's reason; and what is said of those that cannot be had. The registry is a real one as far as the engine asks.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import zlib from 'node:zlib';
import { Docker, needDocker } from './docker.mjs';
import { Reeve, root, until } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

let docker;
let reeve;
let registry;

const digest = (bytes) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const manifestType = 'application/vnd.docker.distribution.manifest.v2+json';

/** Serves one image of two layers as team/agent:1. The end of the last layer waits until `release` is called. */
class Registry {
    static async start() {
        const registry = new Registry();
        const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'reeve-registry-'));
        try {
            const made = spawnSync(path.join(root, 'tests/unit/docker_rootfs.sh'), [path.join(folder, 'fs')], { encoding: 'utf8' });
            assert.equal(made.status, 0, made.stderr);
            const tar = (...names) => spawnSync('tar', ['-C', path.join(folder, 'fs'), '-c', ...names], { maxBuffer: 1 << 28 }).stdout;
            const rest = fs.readdirSync(path.join(folder, 'fs')).filter((name) => name !== 'home');
            registry.image([tar('home'), tar(...rest)]);
        } finally {
            fs.rmSync(folder, { recursive: true, force: true });
        }
        registry.server = http.createServer((rq, answer) => registry.serve(rq, answer));
        await new Promise((resolve) => registry.server.listen(0, '127.0.0.1', resolve));
        registry.host = `127.0.0.1:${registry.server.address().port}`;
        return registry;
    }

    image(layers) {
        const packed = layers.map((layer) => zlib.gzipSync(layer));
        const config = Buffer.from(
            JSON.stringify({
                architecture: process.arch === 'x64' ? 'amd64' : process.arch,
                os: 'linux',
                config: { Env: ['PATH=/bin', 'OF_THE_IMAGE=yes', 'HOME=/nowhere'] },
                rootfs: { type: 'layers', diff_ids: layers.map(digest) },
            }),
        );
        this.blobs = new Map([config, ...packed].map((bytes) => [digest(bytes), bytes]));
        this.slow = digest(packed.at(-1));
        this.released = new Promise((resolve) => (this.release = resolve));
        this.manifest = Buffer.from(
            JSON.stringify({
                schemaVersion: 2,
                mediaType: manifestType,
                config: { mediaType: 'application/vnd.docker.container.image.v1+json', size: config.length, digest: digest(config) },
                layers: packed.map((bytes) => ({ mediaType: 'application/vnd.docker.image.rootfs.diff.tar.gzip', size: bytes.length, digest: digest(bytes) })),
            }),
        );
        this.asked = 0;
    }

    async serve(rq, answer) {
        const [, kind, name] = /^\/v2\/team\/agent\/(manifests|blobs)\/(.+)$/.exec(rq.url) ?? [];
        if (rq.url === '/v2/') {
            answer.writeHead(200).end('{}');
        } else if (kind === 'manifests' && (name === '1' || name === digest(this.manifest))) {
            this.asked += name === '1'; // a tag is looked up once for each pull
            answer.writeHead(200, { 'content-type': manifestType, 'docker-content-digest': digest(this.manifest), 'content-length': this.manifest.length });
            answer.end(rq.method === 'HEAD' ? undefined : this.manifest);
        } else if (kind === 'blobs' && this.blobs.has(name)) {
            const bytes = this.blobs.get(name);
            answer.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': bytes.length });
            if (name !== this.slow) return answer.end(bytes);
            answer.write(bytes.subarray(0, bytes.length / 2));
            await this.released;
            answer.end(bytes.subarray(bytes.length / 2));
        } else {
            answer.writeHead(404, { 'content-type': 'application/json' }).end('{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}');
        }
    }

    close() {
        this.release();
        this.server.closeAllConnections?.();
        return new Promise((resolve) => this.server.close(resolve));
    }
}

before(async () => {
    needDocker();
    docker = await Docker.start();
    registry = await Registry.start();
    reeve = await Reeve.start({
        tag: 'pull',
        edit: (config) => {
            const of = (image) => ({ providers: ['box'], image });
            config.providers = { box: { ...config.providers.local, kind: 'docker', endpoint: docker.endpoint } };
            config.templates = {
                far: of(`${registry.host}/team/agent:1`),
                unknown: of(`${registry.host}/team/agent:2`),
                nobody: of('127.0.0.1:1/team/agent'),
            };
            for (const tenant of Object.values(config.tenants)) tenant.templates = ['far', 'unknown', 'nobody'];
        },
    });
});
context(() => `${reeve?.tail(15)}\n${docker?.tail()}`);
after(async () => {
    await registry?.close();
    await reeve?.finish();
    await docker?.finish();
});

const show = async (place) => (await reeve.api('GET', `/v1/workspaces/${place}`)).body;
const ask = (place, template) => reeve.api('PUT', `/v1/workspaces/${place}?wait=0s`, { body: { template } });

test('pulled once for two who wait, and they see how far it is', { timeout: 120000 }, async () => {
    for (const place of ['alice/one', 'alice/two']) assert.ok((await ask(place, 'far')).status < 300);
    for (const place of ['alice/one', 'alice/two'])
        await until(`${place} says how far it is`, 60000, async () => /is being pulled: \d of 2 layers/.test((await show(place)).reason));
    assert.equal((await show('alice/one')).state, 'provisioning');
    registry.release();
    for (const place of ['alice/one', 'alice/two'])
        await until(`${place} is ready`, 60000, async () => (await show(place)).state === 'ready');
    assert.equal(registry.asked, 1, 'one pull');
    assert.equal((await show('alice/one')).reason ?? '', '');
    const ran = await reeve.api('POST', '/w/alice/one/v1/processes/run', { body: { command: '/bin/sh', args: ['-c', 'echo $OF_THE_IMAGE $HOME $PATH'] } });
    assert.equal(ran.body.stdout, 'yes /home/agent /bin\n', 'what the image sets is there, but for the home');
    for (const place of ['alice/one', 'alice/two']) await reeve.remove(place);
});

test('a name that the registry does not know ends in `failed`, and says so', { timeout: 60000 }, async () => {
    await ask('alice/never', 'unknown');
    const got = await until('it has failed', 40000, async () => {
        const now = await show('alice/never');
        return now.state === 'failed' && now;
    });
    assert.match(got.reason, /team\/agent:2 cannot be pulled: .*manifest unknown/);
    await reeve.remove('alice/never');
});

test('a registry that is away: said, and tried again', { timeout: 60000 }, async () => {
    await ask('alice/later', 'nobody');
    await until('the reason says why', 40000, async () => /127\.0\.0\.1:1\/team\/agent cannot be pulled: .*connection refused/.test((await show('alice/later')).reason));
    await reeve.remove('alice/later');
    assert.deepEqual(await docker.containers(), []);
    assert.deepEqual((await docker.volumes()).map((v) => v.Name), []);
});
