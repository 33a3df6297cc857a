// What plays the outside for sandboxes: loopback servers over HTTP and HTTPS, with a certificate authority of their own.
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import path from 'node:path';
import { rootfs } from './docker.mjs';
import { target } from './lib.mjs';

const listening = (server, at) =>
    new Promise((resolve, reject) => {
        server.on('error', reject);
        server.listen(at.port ?? 0, at.host ?? '127.0.0.1', () => resolve(server));
    });

export async function serveHttp(handler, at = {}) {
    return listening(http.createServer(handler), at);
}

/** `authority` as Authority makes one; answers for its names. `at.curve`: the only one it speaks on. */
export async function serveHttps(authority, handler, at = {}) {
    return listening(https.createServer({ key: authority.key, cert: authority.cert, ...(at.curve && { ecdhCurve: at.curve }) }, handler), at);
}

export async function stop(server) {
    server?.closeAllConnections?.();
    await new Promise((resolve) => (server?.listening ? server.close(resolve) : resolve()));
}

/** A certificate authority and one certificate for the names, in PEM. */
export class Authority {
    constructor(folder, names) {
        const openssl = (...args) => {
            const made = spawnSync('openssl', args, { cwd: folder, encoding: 'utf8' });
            if (made.status !== 0) throw new Error(`openssl ${args[0]}: ${made.stderr ?? made.error}`);
        };
        fs.mkdirSync(folder, { recursive: true });
        const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
        openssl('req', '-x509', ...key, '-keyout', 'ca.key', '-out', 'ca.pem', '-days', '2', '-subj', '/CN=outside',
            '-addext', 'basicConstraints=critical,CA:true', '-addext', 'keyUsage=critical,keyCertSign');
        openssl('req', ...key, '-keyout', 'server.key', '-out', 'server.csr', '-subj', `/CN=${names[0]}`);
        fs.writeFileSync(path.join(folder, 'ext'), `subjectAltName=${names.map((n) => `DNS:${n}`).join(',')}\n`);
        openssl('x509', '-req', '-in', 'server.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2',
            '-extfile', 'ext', '-out', 'server.pem');
        this.file = path.join(folder, 'ca.pem');
        this.ca = fs.readFileSync(this.file);
        this.key = fs.readFileSync(path.join(folder, 'server.key'));
        this.cert = fs.readFileSync(path.join(folder, 'server.pem'));
    }
}

const isPackage = (name) => spawnSync('dpkg-query', ['-W', name]).status === 0;

/** With containers: makes the image that has the usual programs, for all templates. Locally they are this machine's. */
export async function useTools(config) {
    if (target.provider !== 'docker') return;
    const image = 'reeve/tools:latest';
    const packages = ['curl', 'git', 'python3', 'python3-pip', 'python3-requests', ...['npm'].filter(isPackage)];
    const made = await target.engine.build('--rootfs', rootfs(...packages), '--tag', image, '--json');
    if (made.code !== 0) throw new Error(`reeve image build: ${made.code} ${made.err}`);
    for (const template of Object.values(config.templates)) template.image = image;
}

/** npm as this machine has it, packed into `file`, for sandboxes that have none; false when it is spread over packages. */
export function packNpm(file) {
    const folder = path.dirname(path.dirname(fs.realpathSync(execFileSync('sh', ['-c', 'command -v npm'], { encoding: 'utf8' }).trim())));
    if (!fs.existsSync(path.join(folder, 'bin/npm-cli.js')) || !fs.existsSync(path.join(folder, 'node_modules'))) return false;
    execFileSync('tar', ['czf', file, '-C', path.dirname(folder), path.basename(folder)]);
    return true;
}
