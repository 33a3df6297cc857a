// Workspaces come and go, many times over: what is left of them is nothing.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { Reeve, sleep, target, until } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

let reeve;

before(async () => {
    reeve = await Reeve.start({ tag: 'leak' });
});
context(() => reeve?.tail(15));
after(() => reeve?.finish());

const status = (field) => Number(new RegExp(`^${field}:\\s*(\\d+)`, 'm').exec(fs.readFileSync(`/proc/${reeve.pid}/status`, 'utf8'))[1]);
/** Reeve's descriptors by what they are: sockets, pipes, files by name. */
function descriptors() {
    const count = {};
    for (const fd of fs.readdirSync(`/proc/${reeve.pid}/fd`)) {
        let to;
        try {
            to = fs.readlinkSync(`/proc/${reeve.pid}/fd/${fd}`).replace(/:\[\d+\]$/, '');
        } catch {
            continue; // closed in between
        }
        count[to] = (count[to] ?? 0) + 1;
    }
    return count;
}
const folders = () => {
    const base = path.join(reeve.folder, 'data', target.provider);
    return ['sandboxes', 'homes'].flatMap((name) => (fs.existsSync(path.join(base, name)) ? fs.readdirSync(path.join(base, name)) : []));
};

/** Makes, uses and deletes a workspace, `n` times in each of four lanes. */
async function rounds(n) {
    await Promise.all(
        Array.from({ length: 4 }, async (_, lane) => {
            for (let i = 0; i < n; i++) {
                const place = `lane${lane}/w${i % 7}`;
                await reeve.workspace(place);
                await reeve.put(place, 'file', `${i}`);
                await reeve.remove(place);
            }
        }),
    );
    await until('all are gone', 60000, () => reeve.sandboxes().length === 0 && folders().length === 0);
}

/** As small as it gets within `ms`: connections of the proxy and the store's threads let go a little later. */
async function least(ms, look) {
    let least_ = look();
    for (const end = Date.now() + ms; Date.now() < end; await sleep(100)) least_ = Math.min(least_, look());
    return least_;
}

async function compare(first, then) {
    await rounds(first);
    const before_ = descriptors();
    const kib = await least(2000, () => status('VmRSS'));
    await rounds(then);
    await until('as many descriptors as before', 20000, () => JSON.stringify(Object.entries(descriptors()).sort()) === JSON.stringify(Object.entries(before_).sort())).catch((e) =>
        assert.fail(`${e.message}: before ${JSON.stringify(before_)}, now ${JSON.stringify(descriptors())}`),
    );
    const more = (await least(2000, () => status('VmRSS'))) - kib;
    console.log(`      ${4 * then} rounds after ${4 * first}: ${kib} KiB, ${more} more`);
    return { kib, more, rounds: 4 * then };
}

test('made, used, deleted: no process, folder, descriptor is left', { timeout: 120000 }, async () => {
    await compare(5, 10);
});

// What has a limit fills up to it first: the changes kept for those who watch (4,096, about seven a round), the store's
// pages and log numbers. After that a round costs little more than its pages in the store's cache.
test('500 rounds: memory stays', { timeout: 1800000, long: true }, async () => {
    const got = await compare(200, 125);
    assert.ok(got.more <= 1280, `${got.more} KiB more after ${got.rounds} rounds`);
});
