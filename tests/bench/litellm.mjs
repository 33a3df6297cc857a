// What LiteLLM asks and reports: events a second in reports of 512 with their prompts in them, and how long a question before a call
// takes, with a prompt of the size that coding agents send.
import { Reeve } from '../e2e/lib.mjs';
import { cpuOf, load, LOAD_CPU, pin, SERVER_CPU } from './measure.mjs';
import { settled } from './usage.mjs';

const BATCH = 512;
const EVENT_BYTES = 12000;
const PROMPT_BYTES = 100000;

export default async function (figure) {
    const reeve = await Reeve.start({
        tag: 'bench',
        edit: (config) => {
            config.gateways.main.kind = 'litellm';
            config.tenants.acme.budgets = [{ name: 'month', scope: 'tenant', limit: '1000000000 USD', window: 'month' }];
        },
    });
    try {
        await reeve.workspace('bench/dev');
        const ran = await reeve.inside('bench/dev', '/bin/sh', ['-c', 'printf %s "$ANTHROPIC_API_KEY" | sha256sum']);
        const hash = /^[0-9a-f]{64}/.exec(ran.stdout)?.[0];
        if (!hash) throw new Error(`the workspace's key: ${JSON.stringify(ran)}`);
        for (const p of reeve.processes()) pin(p.pid, LOAD_CPU);
        pin(reeve.pid, SERVER_CPU);
        const headers = { Authorization: `Bearer ${reeve.gatewaySecret}` };
        const before = await settled(reeve);
        const cpu = cpuOf(reeve.pid);
        const run = await load(reeve.pid, `${reeve.url}/v1/gateways/main/usage`, { connections: 4, script: 'litellm.lua', args: [hash, BATCH, EVENT_BYTES, Date.now().toString(36)], headers });
        const after = await settled(reeve);
        const events = after.accepted - before.accepted;
        if (events < run.requests * BATCH || after.other !== before.other) throw new Error(`${run.requests} reports of ${BATCH} were answered, but ${events} events were accepted, ${after.other - before.other} were not`);
        const rate = (run.requests * BATCH) / run.seconds;
        figure({
            name: `LiteLLM's events, ${BATCH} in a report, ${EVENT_BYTES / 1000} KB each`,
            value: `${rate.toFixed(0)}/s durable, ${((cpuOf(reeve.pid) - cpu) / events).toFixed(1)} µs each`,
            data: { run, events },
        });
        for (const connections of [1, 16]) {
            const asked = await load(reeve.pid, `${reeve.url}/v1/gateways/main/admission/beta/litellm_basic_guardrail_api`, { connections, script: 'admission.lua', args: [hash, PROMPT_BYTES], headers });
            figure({
                name: `admission of a call with ${PROMPT_BYTES / 1000} KB of prompt, ${connections} at once`,
                value: `p50 ${(asked.p50_us / 1000).toFixed(2)} ms, p99 ${(asked.p99_us / 1000).toFixed(2)} ms, ${asked.cpu_us.toFixed(0)} µs each`,
                data: { run: asked },
            });
        }
    } finally {
        await reeve.finish();
    }
}
