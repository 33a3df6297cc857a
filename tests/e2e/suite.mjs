// How a test file registers its tests with run.mjs.
export function test(name, options, fn = options) {
    const { timeout = 60000, long = false } = typeof options === 'function' ? {} : options;
    globalThis.suite.tests.push({ name, timeout, long, fn });
}
export const before = (fn) => globalThis.suite.before.push(fn);
export const after = (fn) => globalThis.suite.after.push(fn);
/** What to show beside a failure: the log's end, say. */
export const context = (fn) => (globalThis.suite.context = fn);
