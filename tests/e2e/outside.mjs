// What plays the outside for sandboxes: loopback servers over HTTP and HTTPS, with a certificate authority of their own.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import path from 'node:path';

const listening = (server, at) =>
    new Promise((resolve, reject) => {
        server.on('error', reject);
        server.listen(at.port ?? 0, at.host ?? '127.0.0.1', () => resolve(server));
    });

export async function serveHttp(handler, at = {}) {
    return listening(http.createServer(handler), at);
}

/** `authority` as Authority makes one; answers for its names. */
export async function serveHttps(authority, handler, at = {}) {
    return listening(https.createServer({ key: authority.key, cert: authority.cert }, handler), at);
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
