// LiteLLM's own price list, out of the Python package: the one of a LiteLLM that other tests have installed, else from
// a wheel that is fetched once into build/.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { root } from './lib.mjs';

const release = '1.106.2';
const name = 'model_prices_and_context_window_backup.json';

function run(command, args) {
    const made = spawnSync(command, args, { encoding: 'utf8', timeout: 300000 });
    if (made.error) throw made.error;
    if (made.status !== 0) throw new Error(`${command} ${args.join(' ')}: ${made.status} ${made.stderr.slice(-2000)}`);
    return made.stdout;
}

/** Of a virtual environment somewhere in build/, two folders deep at most. */
function installedList() {
    const folders = (at) => (fs.existsSync(at) ? fs.readdirSync(at, { withFileTypes: true }).filter((it) => it.isDirectory()).map((it) => path.join(at, it.name)) : []);
    const build = path.join(root, 'build');
    for (const venv of [...folders(build), ...folders(build).flatMap(folders)])
        for (const python of folders(path.join(venv, 'lib')))
            for (const list of [path.join(python, 'site-packages/litellm', name)]) if (fs.existsSync(list)) return list;
    return undefined;
}

/** The list's path. */
export function priceList() {
    const folder = path.join(root, 'build/pricelist');
    const file = path.join(folder, `${release}.json`);
    if (fs.existsSync(file)) return file;
    fs.mkdirSync(folder, { recursive: true });
    const installed = installedList();
    const beside = fs.mkdtempSync(path.join(folder, 'new-'));
    try {
        if (installed) {
            fs.copyFileSync(installed, path.join(beside, name));
        } else {
            run('python3', ['-m', 'pip', 'download', '--quiet', '--no-deps', '--disable-pip-version-check', '--dest', beside, `litellm==${release}`]);
            const wheel = fs.readdirSync(beside).find((it) => it.endsWith('.whl'));
            run('python3', ['-c', 'import sys, zipfile; open(sys.argv[2], "wb").write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[3]))', path.join(beside, wheel), path.join(beside, name), `litellm/${name}`]);
        }
        fs.renameSync(path.join(beside, name), file);
    } finally {
        fs.rmSync(beside, { recursive: true, force: true });
    }
    return file;
}
