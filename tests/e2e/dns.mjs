// A name server for tests: what stands in `names`, and nothing else. An entry is a list of records (or a function that
// gives one for each question): { a: '192.0.2.1' }, { aaaa: '2001:db8::1' }, { cname: 'other.test' }, each with a
// `ttl`; `'silence'` answers nothing. CNAMEs are followed within `names`, as a resolver would.
import dgram from 'node:dgram';
import net from 'node:net';

const A = 1;
const CNAME = 5;
const AAAA = 28;

function nameBytes(name) {
    const parts = name.split('.').filter(Boolean);
    return Buffer.concat([...parts.map((p) => Buffer.concat([Buffer.from([p.length]), Buffer.from(p)])), Buffer.from([0])]);
}

function addressBytes(text) {
    if (net.isIPv4(text)) return Buffer.from(text.split('.').map(Number));
    const [head, tail] = text.split('::');
    const words = (s) => (s ? s.split(':') : []).flatMap((w) => (w.includes('.') ? mapped(w) : [parseInt(w, 16)]));
    const mapped = (v4) => {
        const b = v4.split('.').map(Number);
        return [b[0] * 256 + b[1], b[2] * 256 + b[3]];
    };
    const first = words(head);
    const last = tail === undefined ? [] : words(tail);
    const all = [...first, ...Array(8 - first.length - last.length).fill(0), ...last];
    return Buffer.concat(all.map((w) => Buffer.from([w >> 8, w & 255])));
}

function record(name, type, ttl, data) {
    const fixed = Buffer.alloc(10);
    fixed.writeUInt16BE(type, 0);
    fixed.writeUInt16BE(1, 2);
    fixed.writeUInt32BE(ttl, 4);
    fixed.writeUInt16BE(data.length, 8);
    return Buffer.concat([nameBytes(name), fixed, data]);
}

export class NameServer {
    static async start(names = {}) {
        const it = new NameServer();
        it.names = names;
        it.asked = []; // "A example.test"
        it.socket = dgram.createSocket('udp4');
        it.socket.on('message', (message, from) => {
            const answer = it.answer(message);
            if (answer) it.socket.send(answer, from.port, from.address);
        });
        await new Promise((resolve, reject) => {
            it.socket.on('error', reject);
            it.socket.bind(0, '127.0.0.1', resolve);
        });
        it.address = `127.0.0.1:${it.socket.address().port}`;
        return it;
    }

    close() {
        this.socket.close();
    }

    answer(message) {
        let at = 12;
        const labels = [];
        while (message[at] !== 0) {
            labels.push(message.subarray(at + 1, at + 1 + message[at]).toString());
            at += 1 + message[at];
        }
        const type = message.readUInt16BE(at + 1);
        const question = message.subarray(12, at + 5);
        const asked = labels.join('.').toLowerCase();
        this.asked.push(`${type === A ? 'A' : type === AAAA ? 'AAAA' : type} ${asked}`);
        const records = [];
        let isKnown = false;
        for (let name = asked, steps = 0; name !== undefined && steps < 8; steps++) {
            let entry = this.names[name];
            if (typeof entry === 'function') entry = entry(type === A ? 'A' : 'AAAA');
            if (entry === 'silence') return undefined;
            isKnown ||= entry !== undefined;
            let next;
            for (const r of entry ?? []) {
                const ttl = r.ttl ?? 0;
                if (r.cname) {
                    records.push(record(name, CNAME, ttl, nameBytes(r.cname)));
                    next = r.cname;
                }
                if (r.a && type === A) records.push(record(name, A, ttl, addressBytes(r.a)));
                if (r.aaaa && type === AAAA) records.push(record(name, AAAA, ttl, addressBytes(r.aaaa)));
            }
            name = next;
        }
        const head = Buffer.alloc(12);
        message.copy(head, 0, 0, 2);
        head.writeUInt16BE(isKnown ? 0x8180 : 0x8183, 2); // 0x8183: no such name
        head.writeUInt16BE(1, 4);
        head.writeUInt16BE(records.length, 6);
        return Buffer.concat([head, question, ...records]);
    }
}
