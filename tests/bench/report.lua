-- For wrk: says at the end, in one line of JSON, what it counted. Other scripts here begin with it.
function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format(
        '\nREPORT {"requests":%d,"failed":%d,"seconds":%.6f,"p50_us":%d,"p99_us":%d,"max_us":%d}\n',
        summary.requests, e.connect + e.read + e.write + e.status + e.timeout, summary.duration / 1e6,
        latency:percentile(50), latency:percentile(99), latency.max))
end
