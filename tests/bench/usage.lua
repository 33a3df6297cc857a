-- For wrk: reports usage, never the same event twice. Arguments: the key's hash, events in a request, a word for ids.
dofile("report.lua")
local hash, batch, word
local made = 0

function init(args)
    hash, batch, word = args[1], tonumber(args[2]), args[3]
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/json"
end

function request()
    local events = {}
    local now = os.date("!%Y-%m-%dT%H:%M:%SZ")
    for i = 1, batch do
        made = made + 1
        events[i] = string.format(
            '{"id":"chatcmpl-%s-%d","key_hash":"%s","model":"claude-sonnet-4-5","time":"%s","tokens":{"input":%d,' ..
            '"output":%d,"cache_read":%d},"call_type":"chat"}',
            word, made, hash, now, 1000 + made % 977, 100 + made % 89, made % 10007)
    end
    return wrk.format(nil, nil, nil, '{"events":[' .. table.concat(events, ",") .. ']}')
end
