// LiteLLM's whole price list, imported; what is said of it; and a controller that prices calls by it.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Gateway } from './gateway.mjs';
import { decimal, needNodeInside, Reeve, reeveBinary, sha256, units } from './lib.mjs';
import { priceList } from './pricelist.mjs';
import { after, before, context, test } from './suite.mjs';

let folder;
let list; // its path
let models; // what it says, numbers as the texts that it has
let imported; // the file that was made
let report;
let notes; // of each model
let reeve;
let gateway;

function run(...args) {
    const made = spawnSync(reeveBinary, args, { encoding: 'utf8', cwd: folder, maxBuffer: 64 << 20, timeout: 120000 });
    if (made.error) throw made.error;
    return made;
}

/** JSON with each number as a text of its own. Strings in the list have no digits after a colon and a blank. */
function parseTexts(text) {
    return JSON.parse(text.replace(/("(?:[^"\\]|\\.)*")|(-?\d[\d.eE+-]*)/g, (_, string, number) => string ?? `"#${number}"`));
}

/** A number's text in 1e-18, by nothing but moving digits; undefined when there are more. */
function unitsOf(text) {
    const [, whole, fraction = '', exponent = '0'] = /^(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(text);
    const digits = whole + fraction;
    const power = Number(exponent) - fraction.length + 18;
    if (power >= 0) return BigInt(digits) * 10n ** BigInt(power);
    const cut = 10n ** BigInt(-power);
    return BigInt(digits) % cut === 0n ? BigInt(digits) / cut : undefined;
}

/** The rows of the file that was made: name → its text between the braces. */
function rowsOf(text) {
    const rows = new Map();
    for (const line of text.split('\n')) {
        const row = /^  ("(?:[^"\\]|\\.)*"): \{(.*)\}$/.exec(line);
        if (row) rows.set(JSON.parse(row[1]), row[2]);
    }
    return rows;
}
const priceIn = (row, kind) => new RegExp(`(?:^|, )${kind}: ([0-9.]+)`).exec(row.split(', tiers:')[0])?.[1];

const notesOf = (kind, model) => (notes.get(model) ?? []).filter((n) => n.kind === kind);

before(async () => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'reeve-prices-'));
    list = priceList();
    models = parseTexts(fs.readFileSync(list, 'utf8'));
    imported = path.join(folder, 'litellm.yaml');
    const made = run('prices', 'import', list, '-o', imported, '--json');
    assert.equal(made.status, 0, made.stderr);
    report = JSON.parse(made.stdout);
    notes = new Map(report.notes.map((n) => [n.model, []]));
    for (const n of report.notes) notes.get(n.model).push(n);
});
context(() => reeve?.tail(15));
after(async () => {
    await reeve?.finish();
    gateway?.close();
    fs.rmSync(folder, { recursive: true, force: true });
});

test('every entry of the list is priced or said to be unpriced', () => {
    const rows = rowsOf(fs.readFileSync(imported, 'utf8'));
    const unpriced = report.notes.filter((n) => n.kind === 'unpriced');
    assert.ok(Object.keys(models).length > 2500);
    assert.ok(rows.size > 2000, `${rows.size}`);
    assert.equal(report.listed, Object.keys(models).length);
    assert.equal(report.priced, rows.size);
    assert.equal(report.unpriced, unpriced.length);
    for (const n of unpriced) {
        assert.ok(!rows.has(n.model), n.model);
        assert.ok(n.why.length > 0);
    }
    assert.deepEqual(new Set([...rows.keys(), ...unpriced.map((n) => n.model)]), new Set(Object.keys(models)));
});

test('each price is the digits of the list, or a mended number that is said', () => {
    let exact = 0;
    for (const [name, row] of rowsOf(fs.readFileSync(imported, 'utf8')))
        for (const [kind, field] of [['input', 'input_cost_per_token'], ['output', 'output_cost_per_token'], ['cache_read', 'cache_read_input_token_cost']]) {
            const found = models[name][field];
            if (found === undefined || notesOf('dearest', name).some((n) => kind === 'output' && n.field.includes('reasoning'))) continue;
            const text = found.slice(1);
            const mended = notesOf('mended', name).find((n) => n.field === field);
            if (kind === 'cache_read' && Number(text) === 0) continue; // input's is taken
            const got = units(priceIn(row, kind));
            if (mended) {
                assert.equal(mended.found, text);
                assert.equal(got, units(mended.taken) * 1000000n, name);
                assert.ok(text.replace(/e.*/, '').replace(/\D/g, '').replace(/^0+/, '').length > 15, text);
                assert.ok(Math.abs(Number(mended.taken) - Number(text)) <= 4 * Number.EPSILON * Number(text), `${text} as ${mended.taken}`);
                assert.ok(BigInt(mended.taken.replace('.', '')).toString().replace(/0+$/, '').length <= 12, mended.taken);
            } else {
                assert.equal(got, unitsOf(text) * 1000000n, `${name} ${kind}`);
                exact++;
            }
        }
    assert.ok(exact > 4000, `${exact}`);
    assert.ok(report.mended > 20, `${report.mended}`);
});

test('what costs more than Reeve prices is said', () => {
    const claude = 'claude-sonnet-4-5';
    assert.ok(notesOf('left_out', claude).some((n) => n.field === 'cache_creation_input_token_cost_above_1hr' && n.undercount));
    assert.ok(notesOf('left_out', claude).some((n) => n.field === 'search_context_cost_per_query' && n.undercount));
    for (const n of report.notes.filter((it) => it.kind === 'left_out' && /_(batches|flex)$/.test(it.field))) assert.ok(!n.undercount, `${n.model} ${n.field}`);
    const shown = run('prices', 'import', list);
    assert.equal(shown.status, 0, shown.stderr);
    assert.match(shown.stdout, new RegExp(`${report.listed} listed, ${report.priced} priced, ${report.unpriced} left unpriced`));
});

test('options, and a file that is somebody\'s own', () => {
    const out = path.join(folder, 'again.yaml');
    const taken = (...options) => {
        const made = run('prices', 'import', list, '-o', out, ...options);
        assert.equal(made.status, 0, made.stderr);
        return rowsOf(fs.readFileSync(out, 'utf8'));
    };
    assert.equal(priceIn(taken().get('claude-sonnet-4-5'), 'cache_write'), '3.75');
    assert.equal(priceIn(taken('--cache-write', '1h').get('claude-sonnet-4-5'), 'cache_write'), '6');
    assert.ok(taken('--free').size > report.priced);
    assert.match((taken('--version', '2026 "x"'), fs.readFileSync(out, 'utf8')), /^version: "2026 \\"x\\""$/m);
    fs.writeFileSync(out, 'currency: USD\n');
    const kept = run('prices', 'import', list, '-o', out);
    assert.equal(kept.status, 1);
    assert.match(kept.stderr, /again\.yaml: is there already and was not imported; --force/);
    assert.equal(fs.readFileSync(out, 'utf8'), 'currency: USD\n');
    taken('--force');
    const piped = run('prices', 'import', list, '-o', '-');
    assert.equal(piped.stdout, fs.readFileSync(imported, 'utf8'));
    assert.equal(run('prices', 'import', path.join(folder, 'none.json')).status, 1);
    assert.match(run('prices', 'import', imported).stderr, /litellm\.yaml: line 1 column 1: /);
    assert.equal(run('prices', 'import', list, '--cache-write', '2h').status, 2);
    assert.equal(run('prices', 'import').status, 2);
    assert.deepEqual(fs.readdirSync(folder).sort(), ['again.yaml', 'litellm.yaml'], 'nothing half-written stays');
});

test('explain: which row, by what, and a call to the last digit', () => {
    const explain = (...args) => run('prices', 'explain', '--prices', imported, '--json', ...args);
    const one = (...args) => {
        const made = explain(...args);
        assert.equal(made.status, 0, made.stderr);
        return JSON.parse(made.stdout);
    };
    const gpt = one('openai/gpt-4o', '--provider', 'openai', '--group', 'gpt-4o', '--tokens', 'input=135,output=15');
    assert.equal(gpt.row, 'gpt-4o');
    assert.equal(gpt.matched_by, 'the row of the model without the provider in front');
    assert.equal(gpt.version, report.version);
    assert.deepEqual(gpt.tiers[0].input, { per_million: '2.5', unit_price: '0.0000025', residue: '0' });
    assert.equal(gpt.cost, '0.0004875');
    assert.equal(one('azure/gpt-4o').row, 'azure/gpt-4o');
    assert.equal(one('anything', '--provider', 'azure', '--group', 'gpt-4o').row, 'azure/gpt-4o');
    const gone = explain('groq/gpt-4o');
    assert.equal(gone.status, 1);
    assert.equal(JSON.parse(gone.stdout).row, null);
    assert.match(gone.stderr, /unpriced/);
    assert.equal(explain('gpt-4o', '--tokens', 'input=1,cache_write=1').status, 1);
    assert.equal(explain('gpt-4o', '--tokens', 'inptu=1').status, 2);
    const shown = run('prices', 'explain', 'gpt-4o', '--prices', imported);
    assert.match(shown.stdout, /^row `gpt-4o`, found as the row of this name\n/);
    assert.match(shown.stdout, /^0 +output +10 +0\.00001 +0$/m);
});

/** A model call from inside, through the door. */
async function call(model, text) {
    const script = `fetch(process.env.ANTHROPIC_BASE_URL + '/v1/messages', { method: 'POST', headers: { 'content-type': 'application/json', 'x-api-key': process.env.ANTHROPIC_API_KEY },
        body: JSON.stringify({ model: ${JSON.stringify(model)}, max_tokens: 10, messages: [{ role: 'user', content: ${JSON.stringify(text)} }] }) })
        .then(async (r) => console.log(JSON.stringify({ status: r.status, text: await r.text() })))`;
    const ran = await reeve.inside('alice/dev', fs.realpathSync(process.execPath), ['-e', script]);
    assert.equal(ran.exitCode, 0, ran.stderr);
    return JSON.parse(ran.stdout);
}

test('a controller with the imported file behind the operator\'s own', { timeout: 120000 }, async () => {
    needNodeInside();
    gateway = await Gateway.start();
    reeve = await Reeve.start({
        tag: 'prices',
        gateway: gateway.url,
        edit: (config, at) => {
            config.prices = { file: ['own.yaml', 'litellm.yaml'], unpriced: 'deny' };
            fs.copyFileSync(imported, path.join(at, 'litellm.yaml'));
            const own = { currency: 'USD', version: 'own-1', factor: '1.1', models: { 'gpt-4o': { input: '100', output: '200' } }, groups: { fast: ['gpt-4o-mini', 'azure/gpt-4o'] } };
            fs.writeFileSync(path.join(at, 'own.yaml'), JSON.stringify(own));
        },
    });
    gateway.attach(reeve);
    const checked = run('check', reeve.file);
    assert.equal(checked.status, 0, checked.stderr);
    await reeve.workspace('alice/dev');
    const perToken = (model, kind, above = 0) => {
        const made = run('prices', 'explain', model, '-c', reeve.file, '--json');
        assert.equal(made.status, 0, made.stderr);
        return units(JSON.parse(made.stdout).tiers.find((t) => t.above === above)[kind].unit_price);
    };
    // by the list, behind a provider's name; at the rates of long prompts; by the operator's own row; by a group
    const gemini = 'gemini/gemini-2.5-pro';
    const wanted = [
        ['anthropic/claude-sonnet-4-5', 1201, 311, 3_000_000_000_000n * 1201n + 15_000_000_000_000n * 311n],
        [gemini, 200000, 7, perToken(gemini, 'input') * 200000n + perToken(gemini, 'output') * 7n],
        [gemini, 200001, 7, perToken(gemini, 'input', 200000) * 200001n + perToken(gemini, 'output', 200000) * 7n],
        ['gpt-4o', 10, 20, 110_000_000_000_000n * 10n + 220_000_000_000_000n * 20n],
        ['fast', 1000, 10, perToken('azure/gpt-4o', 'input') * 1000n + perToken('azure/gpt-4o', 'output') * 10n],
    ];
    assert.ok(perToken(gemini, 'input', 200000) > perToken(gemini, 'input'));
    for (const [model, input, output] of wanted) {
        const answer = await call(model, `use ${input} ${output}`);
        assert.equal(answer.status, 200, `${model}: ${answer.text}\n${gateway.failed?.stack}`);
    }
    const refused = await call('gpt-4o-of-tomorrow', 'use 1 1');
    assert.ok(refused.status >= 400 && refused.status < 500, `${refused.status}`);
    assert.match(refused.text, /`gpt-4o-of-tomorrow` has no price/);
    assert.equal(gateway.calls.length, wanted.length, 'the refused one never left');

    const usage = await reeve.api('GET', '/v1/usage?group_by=model', { key: 'acme viewer' });
    const sums = new Map();
    for (const [model, , , cost] of wanted) sums.set(model, (sums.get(model) ?? 0n) + cost);
    assert.deepEqual(new Map(usage.body.items.map((it) => [it.model, it.cost.amount])), new Map([...sums].map(([model, cost]) => [model, decimal(cost)])));
    const entries = (await reeve.api('GET', `/v1/periods/${new Date().toISOString().slice(0, 7)}/export?format=jsonl`, { key: 'acme owner' })).text.trim().split('\n').map((l) => JSON.parse(l));
    assert.deepEqual(entries.map((e) => e.price_version).sort(), [report.version, report.version, report.version, 'own-1', 'own-1'].sort());

    // what a gateway reports all the same waits, in sight
    const key = (await reeve.inside('alice/dev', '/bin/sh', ['-c', 'printf %s "$ANTHROPIC_API_KEY"'])).stdout;
    const told = await gateway.report([{ id: 'stray', key_hash: sha256(key), model: 'groq/gpt-4o-mini', time: new Date().toISOString(), tokens: { input: 5 } }]);
    assert.equal(told.body.rejected[0].code, 'unpriced');
    const waiting = await reeve.api('GET', '/v1/suspense', { key: 'acme owner' });
    assert.deepEqual(waiting.body.items.map((it) => [it.reason, it.model]), [['unpriced', 'groq/gpt-4o-mini']]);
});
