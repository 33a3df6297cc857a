// `reeve top` in a terminal of its own: what it shows, how it follows, how it ends.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import http from 'node:http';
import { decimal, Reeve, reeveBinary, runReeve, sha256, slow, units, until, within } from './lib.mjs';
import { after, before, context, test } from './suite.mjs';

let reeve;
const hashes = {};
let sequence = 0;

before(async () => {
    reeve = await Reeve.start({
        tag: 'top',
        edit: (config) => {
            config.tenants.acme.budgets = [
                { name: 'month', scope: 'tenant', limit: '50 USD', window: 'month' },
                { name: 'each', scope: 'namespace', limit: '5 USD', window: 'month' },
            ];
            config.tenants.globex.budgets = [{ name: 'small', scope: 'tenant', limit: '0.01 USD', window: 'month' }];
        },
    });
    for (const [place, key] of [['alice/dev', 'acme owner'], ['bob/lab', 'acme owner'], ['zoe/one', 'globex owner']]) {
        await reeve.workspace(place, { key });
        hashes[place] = sha256((await reeve.inside(place, '/bin/sh', ['-c', 'printf %s "$ANTHROPIC_API_KEY"'], { key })).stdout);
    }
});
context(() => reeve?.tail(15));
after(() => reeve?.finish());

/** One call of claude-sonnet-4-5: 3 and 15 USD a million tokens in the starter's price file. */
async function spend(place, input, output) {
    const event = { id: `e${++sequence}`, key_hash: hashes[place], model: 'claude-sonnet-4-5', time: new Date().toISOString(), tokens: { input, output } };
    const told = await reeve.api('POST', '/v1/gateways/main/usage', { key: null, headers: { authorization: `Bearer ${reeve.gatewaySecret}` }, body: { events: [event] } });
    assert.equal(told.body.accepted, 1, told.text);
    return BigInt(input) * 3_000_000_000_000n + BigInt(output) * 15_000_000_000_000n;
}
const spent = { 'alice/dev': 0n, 'bob/lab': 0n, 'zoe/one': 0n };

const environment = (key, url) => ({ PATH: process.env.PATH, TERM: 'xterm', REEVE_URL: url ?? reeve.url, REEVE_KEY: key.startsWith('rvk_') ? key : reeve.key(key) });

function run(args, { key = 'fleet owner', url } = {}) {
    return runReeve(['top', ...args], environment(key, url));
}

/** A frame's lines without its colours. The terminal's own driver adds a return to each. */
const plain = (frame) => frame.replaceAll(/\x1b\[[0-9;?]*[A-Za-z]/g, '').split(/\r+\n/);

/** The command in a pseudo-terminal; `lines()` is its screen. The shell around it says what it found afterwards. */
class Terminal {
    static async open(args, { key = 'fleet owner', url, columns = 110, rows = 30 } = {}) {
        const it = new Terminal();
        it.text = '';
        const quoted = [reeveBinary, 'top', ...args].map((a) => `'${a}'`).join(' ');
        const shell = `stty cols ${columns} rows ${rows}; before=$(stty -g); echo "tty=$(tty)"; ${quoted} & pid=$!; echo "pid=$pid"; fg >/dev/null; code=$?; [ "$before" = "$(stty -g)" ] && echo same; echo "code=$code"`;
        it.child = spawn('script', ['-qec', `sh -mc '${shell.replaceAll("'", `'\\''`)}'`, '/dev/null'], { env: environment(key, url), stdio: ['pipe', 'pipe', 'inherit'] });
        it.child.stdout.setEncoding('utf8');
        it.child.stdout.on('data', (d) => (it.text += d));
        it.ended = new Promise((resolve) => it.child.on('close', resolve));
        await until('the screen', 20000, () => it.frames().length > 0);
        it.tty = /tty=(\S+)/.exec(it.text)[1];
        it.pid = Number(/pid=(\d+)/.exec(it.text)[1]);
        return it;
    }

    /** What was drawn, each time; only whole frames. */
    frames() {
        const drawn = this.text.split('\x1b[?1049h')[1]?.split('\x1b[?1049l')[0] ?? '';
        return drawn.split('\x1b[H').slice(1).filter((frame) => frame.includes('q quit'));
    }

    lines() {
        return plain(this.frames().at(-1));
    }

    shows(what, ms = 20000) {
        return until(`on the screen: ${what}`, ms, () => what.test(this.lines().join('\n'))).catch((e) => {
            throw new Error(`${e.message}\n${this.lines().join('\n')}`);
        });
    }

    resize(columns, rows) {
        const made = spawnSync('stty', ['-F', this.tty, 'cols', `${columns}`, 'rows', `${rows}`], { encoding: 'utf8' });
        assert.equal(made.status, 0, made.stderr);
    }

    type(keys) {
        this.child.stdin.write(keys);
    }

    /** The command has ended: with that code, the terminal as it was. */
    async isOver(code) {
        await within(20000, 'top ends', this.ended);
        assert.match(this.text, /\x1b\[\?25h\x1b\[\?1049l/);
        assert.match(this.text.split('\x1b[?1049l')[1], new RegExp(`same\\s+code=${code}`));
    }

    kill() {
        try {
            process.kill(this.pid, 'SIGKILL');
        } catch {
            // it has ended
        }
    }
}

async function inTerminal(args, options, fn) {
    const terminal = await Terminal.open(args, options);
    try {
        await fn(terminal);
    } finally {
        terminal.kill();
        await within(20000, 'the terminal closes', terminal.ended);
    }
}

const short = (value) => {
    const [whole, fraction = ''] = decimal(value).split('.');
    assert.ok(fraction.length <= 4, 'the test spends round sums');
    return `${whole}\\.${fraction.padEnd(4, '0')}`;
};

test('it follows what is spent, for a whole fleet', { timeout: 120000 }, async () => {
    spent['alice/dev'] += await spend('alice/dev', 100000, 20000);
    spent['zoe/one'] += await spend('zoe/one', 100000, 0);
    await inTerminal(['--every', '200ms'], {}, async (terminal) => {
        await terminal.shows(/^reeve top {2}fleet /m);
        await terminal.shows(new RegExp(`^acme +2 +0 +0 +0 +${short(spent['alice/dev'])} +${short(spent['alice/dev'])}`, 'm'));
        await terminal.shows(/^alice\/dev +acme +ready +local /m);
        await terminal.shows(/^zoe\/one +globex +ready +local /m);
        await terminal.shows(/^small +globex +\[####################\] 999% +0\.3000 +0\.0100/m);
        assert.ok(!terminal.lines().some((l) => l.startsWith('each')), 'a budget of each namespace has no sum of its own');
        // nobody types, and yet
        const place = 'bob/lab';
        spent[place] += await spend(place, 200000, 0);
        await terminal.shows(new RegExp(`^bob/lab +acme +ready +local +${short(spent[place])} +${short(spent[place])}`, 'm'));
        const sum = Object.values(spent).reduce((a, b) => a + b);
        await terminal.shows(new RegExp(`today ${short(sum)}, this month ${short(sum)} USD; 2 tenants, 3 workspaces: 3 ready`));
        const suspended = await reeve.api('POST', '/v1/workspaces/bob/lab/suspend?wait=30s');
        assert.equal(suspended.body.state, 'suspended', suspended.text);
        await terminal.shows(/^bob\/lab +acme +suspended /m);
        await reeve.api('POST', '/v1/workspaces/bob/lab/resume?wait=30s');
        await terminal.shows(/^bob\/lab +acme +ready /m);
        terminal.type('q');
        await terminal.isOver(0);
    });
});

test('a terminal of another size, sorting, scrolling', { timeout: 120000 }, async () => {
    const order = (terminal) => terminal.lines().map((l) => /^(\w+\/\w+) /.exec(l)?.[1]).filter(Boolean);
    await inTerminal(['--sort', 'name', '--every', '200ms'], { columns: 200, rows: 40 }, async (terminal) => {
        await terminal.shows(/by name/);
        assert.deepEqual(order(terminal), ['alice/dev', 'bob/lab', 'zoe/one']);
        assert.equal(terminal.lines().length, 40);
        for (const [columns, rows] of [[50, 12], [20, 4], [133, 20], [300, 60], [30, 1]]) {
            terminal.resize(columns, rows);
            await until(`a frame of ${columns} by ${rows}`, 20000, () => {
                const lines = terminal.lines();
                return lines.length === rows && lines.every((l) => l.length <= columns);
            }).catch((e) => {
                throw new Error(`${e.message}\n${terminal.lines().join('\n')}`);
            });
        }
        terminal.resize(120, 15);
        await terminal.shows(/^zoe\/one/m);
        terminal.type('s');
        await terminal.shows(/by state/);
        terminal.type('s');
        await terminal.shows(/by spend/);
        assert.equal(order(terminal)[0], 'alice/dev');
        terminal.resize(120, 11);
        await until('room for two', 20000, () => order(terminal).length === 2);
        terminal.type('\x1b[B');
        await until('the list has moved', 20000, () => order(terminal)[0] !== 'alice/dev');
        terminal.type('jjjjjj\x1b[6~ ');
        await until('it stops at its end', 20000, () => order(terminal).length === 2 && order(terminal)[0] !== 'alice/dev');
        terminal.type('k\x1b[A\x1b[5~');
        await until('and at its beginning', 20000, () => order(terminal)[0] === 'alice/dev');
        process.kill(terminal.pid, 'SIGTERM');
        await terminal.isOver(0);
    });
});

test('a controller that goes away, and comes back', { timeout: 120000 }, async () => {
    await inTerminal(['--every', '200ms'], { key: 'acme viewer' }, async (terminal) => {
        await terminal.shows(/^reeve top {2}tenant acme /m);
        await terminal.shows(/^alice\/dev /m);
        assert.ok(!terminal.lines().join('\n').includes('zoe'), 'another tenant\'s is not shown');
        await reeve.kill('SIGTERM');
        await terminal.shows(/^http:.*(connect|Empty reply|reset)/im, 30000);
        await terminal.shows(/^alice\/dev /m);
        reeve.isEnding = false;
        await reeve.run();
        await until('it is well again', 30000, () => !/^http:/m.test(terminal.lines().join('\n')));
        terminal.type('\x03');
        await terminal.isOver(0);
    });
});

test('for programs: one look, exact', async () => {
    const look = async (key, args = []) => {
        const made = await run(['--once', '--json', ...args], { key });
        assert.equal(made.code, 0, made.err);
        assert.ok(!made.out.includes('\x1b'));
        return JSON.parse(made.out);
    };
    const fleet = await look('fleet owner');
    assert.deepEqual([fleet.authority, fleet.currency, fleet.truncated], ['fleet', 'USD', false]);
    assert.deepEqual(fleet.tenants.map((t) => t.name), ['acme', 'globex']);
    for (const ws of fleet.workspaces) assert.equal(units(ws.month), spent[`${ws.namespace}/${ws.name}`]);
    for (const t of fleet.tenants) assert.equal(units(t.month), fleet.workspaces.filter((w) => w.tenant === t.name).reduce((a, w) => a + units(w.month), 0n));
    assert.deepEqual(fleet.budgets.map((b) => [b.tenant, b.name, b.limit]), [['acme', 'month', '50'], ['globex', 'small', '0.01']]);
    const one = await look('acme owner');
    assert.deepEqual([one.authority, one.tenants.length, one.workspaces.length], ['tenant', 1, 2]);
    const alices = await look('acme alices');
    assert.deepEqual(alices.workspaces.map((w) => `${w.namespace}/${w.name}`), ['alice/dev']);
    assert.equal(units(alices.tenants[0].month), spent['alice/dev'], 'what the key may see, no more');
    const text = await run([]);
    assert.equal(text.code, 0, text.err);
    assert.match(text.out, /^alice\/dev +acme +\w+ +local/m);
    assert.ok(!text.out.includes('\x1b'), 'into a pipe go plain lines');
});

test('a line of JSON each time, until the reader leaves', async () => {
    const child = spawn(reeveBinary, ['top', '--json', '--every', '200ms'], { env: environment('fleet owner'), stdio: ['ignore', 'pipe', 'inherit'] });
    const ended = new Promise((resolve) => child.on('close', resolve));
    let out = '';
    child.stdout.on('data', (d) => (out += d));
    await until('three lines', 20000, () => out.split('\n').length > 3);
    for (const l of out.split('\n').slice(0, 3)) assert.equal(JSON.parse(l).authority, 'fleet');
    child.stdout.destroy();
    await within(20000, 'it ends with its reader', ended);
});

test('what is refused', async () => {
    assert.equal((await run(['--once'], { key: 'nobody at all' })).code, 1);
    assert.match((await run(['--once'], { key: 'nobody at all' })).err, /^reeve: this key is not known/);
    const nowhere = await run(['--once'], { url: 'http://127.0.0.1:1' });
    assert.equal(nowhere.code, 3);
    assert.match(nowhere.err, /^reeve: http:\/\/127\.0\.0\.1:1: /);
    for (const args of [['--sort', 'size'], ['--every', '1ms'], ['--every', 'often'], ['extra'], ['--colour']]) assert.equal((await run(args)).code, 2, args.join(' '));
});

test('names that want to drive the terminal', { timeout: 60000 }, async () => {
    const bad = 'a\x1b]0;owned\x07\x1b[2J\r\nb\u009b31m\u202e\u0000ü漢🙂' + 'x'.repeat(3000);
    const money = (amount) => ({ amount, currency: '\x1b[2' });
    const answers = {
        '/v1/whoami': { authority: 'fleet', namespaces: ['*'] },
        '/v1/tenants': { items: [{ name: 't' }] },
        '/v1/usage': { items: [{ workspace_id: 'w1', cost: money('1') }, { workspace_id: 'w2', cost: money('99999999999999999999999999999999999999999') }, { workspace_id: 7 }, 3], total: { cost: money('170141183460469231731.687303715884105727') } },
        '/v1/workspaces': { items: [{ id: 'w1', namespace: bad, name: bad, state: bad, provider: bad, reason: bad }, { id: 'w2', name: 3, state: null }, 'x', { id: 'w1' }] },
        '/v1/budgets': { items: [{ name: bad, spent: money('-5'), limit: money('0'), unsettled: money('1e5'), resets_at: bad }, {}] },
    };
    // \u0000 is no string that the reader takes: it goes in once, and then not
    const text = (path, zero) => JSON.stringify(answers[path] ?? { items: [] }).replaceAll('\\u0000', zero);
    let zero = '';
    const server = http.createServer((rq, answer) => answer.writeHead(200, { 'content-type': 'application/json' }).end(text(rq.url.split('?')[0], zero)));
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    const url = `http://127.0.0.1:${server.address().port}`;
    const isClean = (s) => assert.match(s, /^[\x20-\x7e\n]*$/);
    try {
        const once = await run(['--once'], { url, key: 'rvk_x' });
        assert.equal(once.code, 0, once.err);
        isClean(once.out);
        assert.match(once.out, /^a\?\]0;owned/m);
        await inTerminal(['--every', '200ms'], { url, key: 'rvk_x', columns: 80, rows: 24 }, async (terminal) => {
            isClean(terminal.frames().at(-1).replaceAll(/\x1b\[(0|1|7|31)m|\x1b\[K|\r+\n/g, ''));
            assert.ok(terminal.lines().every((l) => l.length <= 80));
            terminal.type('q');
            await terminal.isOver(0);
        });
        answers['/v1/tenants'] = { items: [{ name: 't\r\nX-Injected: 1' }] };
        const refused = await run(['--once'], { url, key: 'rvk_x' });
        assert.deepEqual([refused.code, refused.err], [1, 'reeve: the controller lists a tenant without a legal name\n']);
        answers['/v1/tenants'] = { items: [{ name: 't' }] };
        zero = '\\u0000';
        const broken = await run(['--once'], { url, key: 'rvk_x' });
        assert.deepEqual([broken.code, broken.err], [1, 'reeve: /v1/workspaces?limit=500: the answer is not JSON\n']);
    } finally {
        server.closeAllConnections();
        server.close();
    }
});
