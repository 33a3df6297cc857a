// Runs inside a sandbox and takes the place of the server there: kills it, listens on its port, and answers with what
// ought not to get out. `hostile.json` beside it, read at each request, says how the desktop's upgrade is answered:
// {"head": N} with a 101 whose head has N bytes. A terminal's upgrade is answered after `delay` ms.
import fs from 'node:fs';
import net from 'node:net';

const serverPort = 2468;

function killServer() {
    for (const pid of fs.readdirSync('/proc'))
        try {
            if (/^\d+$/.test(pid) && pid !== '1' && fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')[0].endsWith('sandbox-agent')) process.kill(Number(pid), 'SIGKILL');
        } catch {
            // it was quicker
        }
}

const settings = () => {
    try {
        return JSON.parse(fs.readFileSync('/home/agent/hostile.json', 'utf8'));
    } catch {
        return {};
    }
};

const upgraded = 'HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n';
const nasty = [
    'X-Accel-Redirect: /internal/secret',
    'X-Accel-Buffering: no',
    'X-Sendfile: /etc/passwd',
    'Set-Cookie: a=b',
    'Set-Cookie: c=d; Domain=example.org',
    'WWW-Authenticate: Basic realm="password please"',
    'Location: https://evil.example/',
    'Refresh: 0;url=https://evil.example/',
    'Alt-Svc: h3=":443"',
    'NEL: {}',
    'Report-To: {}',
    'Strict-Transport-Security: max-age=0',
    'Clear-Site-Data: "*"',
    'Access-Control-Allow-Origin: *',
    'Access-Control-Allow-Credentials: true',
    'Service-Worker-Allowed: /',
    'X-Harmless: stays',
];

function answer(s, method, target) {
    const path = target.split('?')[0];
    if (path === '/v1/health') s.write('HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"status":"ok"}');
    else if (path.endsWith('/terminal/ws')) setTimeout(() => s.write(`${upgraded}\r\n`), settings().delay ?? 0);
    else if (path.endsWith('/signaling')) {
        const { head = 2000 } = settings();
        const [open, close] = [`${upgraded}${nasty.join('\r\n')}\r\nX-Pad: `, '\r\n\r\n'];
        s.write(open + 'a'.repeat(head - open.length - close.length) + close);
        setTimeout(() => s.write('Set-Cookie: late=1\r\n\r\n'), 300);
    } else s.write(`HTTP/1.1 ${path.endsWith('/status') ? 401 : 200} X\r\n${nasty.join('\r\n')}\r\nContent-Length: 2\r\n\r\nok`);
}

const server = net.createServer((s) => {
    let head = '';
    s.on('error', () => {});
    s.on('data', (part) => {
        head += part.toString('latin1');
        for (let at; (at = head.indexOf('\r\n\r\n')) >= 0; head = head.slice(at + 4)) answer(s, ...head.slice(0, head.indexOf('\r\n')).split(' '));
    });
});
server.on('error', () => setTimeout(take, 1));
function take() {
    killServer();
    server.listen(serverPort, '127.0.0.1');
}
setTimeout(take, 300); // whoever started us has its answer by then
