// Certificates for a test, made by the openssl command: an authority, and what it signs.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

function openssl(folder, ...args) {
    const made = spawnSync('openssl', args, { cwd: folder, encoding: 'utf8', timeout: 60000 });
    if (made.error || made.status !== 0) throw made.error ?? new Error(`openssl ${args.join(' ')}: ${made.stderr}`);
    return made.stdout;
}

export class Authority {
    /** Its files stand in `folder` (which is made): NAME.pem and NAME.key. */
    constructor(folder, name) {
        fs.mkdirSync(folder, { recursive: true });
        this.folder = folder;
        this.name = name;
        openssl(
            folder,
            ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '30'],
            ...['-subj', `/CN=${name}`, '-keyout', `${name}.key`, '-out', `${name}.pem`],
        );
        this.pem = path.join(folder, `${name}.pem`);
    }

    /** A server's certificate for `hosts` ("DNS:a", "IP:127.0.0.1"); gives the paths of both files. `days` below 0: it
     *  expired so many days ago. */
    issue(name, hosts, { days = 10, rsa = false } = {}) {
        const kind = rsa ? ['rsa:2048'] : ['ec', '-pkeyopt', 'ec_paramgen_curve:P-256'];
        openssl(this.folder, 'req', '-newkey', ...kind, '-nodes', '-subj', `/CN=${name}`, '-keyout', `${name}.key`, '-out', `${name}.csr`);
        fs.writeFileSync(path.join(this.folder, `${name}.ext`), `subjectAltName=${hosts.join(',')}\nextendedKeyUsage=serverAuth\n`);
        if (days > 0) {
            openssl(
                this.folder,
                ...['x509', '-req', '-in', `${name}.csr`, '-CA', `${this.name}.pem`, '-CAkey', `${this.name}.key`, '-CAcreateserial'],
                ...['-days', String(days), '-extfile', `${name}.ext`, '-out', `${name}.pem`],
            );
        } else {
            this.issuePast(name, -days);
        }
        return { cert: path.join(this.folder, `${name}.pem`), key: path.join(this.folder, `${name}.key`) };
    }

    issuePast(name, days) {
        const time = (daysAgo) => new Date(Date.now() - daysAgo * 86400000).toISOString().replace(/[-:T]|\.\d+/g, '').slice(2);
        fs.writeFileSync(path.join(this.folder, 'index.txt'), '');
        fs.writeFileSync(
            path.join(this.folder, 'ca.cnf'),
            '[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n',
        );
        openssl(
            this.folder,
            ...['ca', '-batch', '-notext', '-config', 'ca.cnf', '-cert', `${this.name}.pem`, '-keyfile', `${this.name}.key`],
            ...['-in', `${name}.csr`, '-extfile', `${name}.ext`, '-out', `${name}.pem`],
            ...['-startdate', time(days + 30), '-enddate', time(days)],
        );
    }
}
