// LiteLLM's own price list, out of the Python package: the one of a LiteLLM that other tests have installed, else from
// a wheel that is fetched once into build/.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
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

/** Of a proxy that tests/e2e/install-litellm has installed, if it is of this release. */
function installedList() {
    const names = (folder) => (fs.existsSync(folder) ? fs.readdirSync(folder).map((it) => path.join(folder, it)) : []);
    return names(path.join(process.env.XDG_CACHE_HOME || path.join(os.homedir(), '.cache'), 'reeve'))
        .filter((venv) => fs.existsSync(path.join(venv, '.installed')))
        .flatMap((venv) => names(path.join(venv, 'lib')))
        .map((python) => path.join(python, 'site-packages'))
        .filter((packages) => fs.existsSync(path.join(packages, `litellm-${release}.dist-info`)))
        .map((packages) => path.join(packages, 'litellm', name))
        .find((file) => fs.existsSync(file));
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
