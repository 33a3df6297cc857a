// The spool of deploy/litellm/reeve_litellm.py by itself: a disk that is full in the middle of an event, and texts that
// a caller has made large.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import { installation } from './litellm.mjs';
import { root } from './lib.mjs';
import { after, test } from './suite.mjs';

const script = `
import resource, sys
sys.path.insert(0, sys.argv[1])
import reeve_litellm as r
r.GATHER_SECONDS = 1e6  # delivered by us alone
def keep(id, **more):
    r.usage.keep({"standard_logging_object": {"litellm_call_id": id, "status": "success", "endTime": 1.5, "model": "m",
        "metadata": {"user_api_key_hash": "0" * 64, "usage_object": {"prompt_tokens": 1}}, **more}})
keep("first")
size = r.os.fstat(r.usage.spool.fd).st_size
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
try:
    keep("second")
    print("no error")
except OSError:
    print("full")
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
keep("third")
keep("large", status="failure", model="x" * 5000000, call_type={"y": ["z" * 100000]})
r.usage.spool.deliver_all()
`;

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'reeve-spool-'));
after(() => fs.rmSync(folder, { recursive: true, force: true }));

test('a full disk costs the event that it met and no other; large texts are cut', { timeout: 300000 }, async () => {
    const bodies = [];
    const server = http.createServer((rq, answer) => {
        const parts = [];
        rq.on('data', (part) => parts.push(part));
        rq.on('end', () => {
            bodies.push(gunzipSync(Buffer.concat(parts)).toString());
            answer.setHeader('content-type', 'application/json').end('{"accepted":0,"duplicates":0,"rejected":[]}');
        });
    });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    let said = '';
    try {
        const child = spawn(path.join(installation(), 'bin/python'), ['-c', script, path.join(root, 'deploy/litellm')], {
            stdio: ['ignore', 'pipe', 'pipe'],
            env: {
                PATH: process.env.PATH,
                HOME: folder,
                LITELLM_LOCAL_MODEL_COST_MAP: 'True',
                PYTHONDONTWRITEBYTECODE: '1',
                REEVE_GATEWAY_URL: `http://127.0.0.1:${server.address().port}/v1/gateways/main`,
                REEVE_GATEWAY_SECRET: 'a secret',
                REEVE_SPOOL: path.join(folder, 'spool'),
            },
        });
        for (const out of [child.stdout, child.stderr]) out.on('data', (part) => (said += part));
        assert.equal(await new Promise((resolve) => child.on('close', resolve)), 0, said);
    } finally {
        server.close();
    }
    assert.match(said, /full/);
    assert.equal(bodies.length, 1);
    const events = bodies[0].trim().split('\n').map((line) => JSON.parse(line));
    assert.deepEqual(events.map((e) => e.litellm_call_id), ['first', 'third', 'large']);
    assert.ok(bodies[0].length < 10000, `${bodies[0].length} bytes`);
    assert.equal(events[2].model, 'x'.repeat(1000));
    assert.deepEqual(fs.readdirSync(path.join(folder, 'spool')), []);
});
