-- For wrk: reports as LiteLLM's own callback does, prompts and answers in them, never the same event twice. Arguments:
-- the key's hash, events in a report, bytes of an event, a word for ids.
dofile("report.lua")
local hash, batch, word, prompt
local made = 0

function init(args)
    hash, batch, word = args[1], tonumber(args[2]), args[4]
    prompt = string.rep('Say it in \\"one\\" word, {please}. ', math.floor(tonumber(args[3]) / 34))
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/json"
end

function request()
    local events = {}
    local now = os.time()
    for i = 1, batch do
        made = made + 1
        events[i] = string.format(
            '{"id":"chatcmpl","litellm_call_id":"%s-%d","call_type":"acompletion","status":"success","model":' ..
            '"anthropic/claude-sonnet-4-5","model_group":"claude-sonnet-4-5","custom_llm_provider":"anthropic","endTime":' ..
            '%d.%06d,"messages":[{"role":"user","content":"%s"}],"metadata":{"user_api_key_hash":"%s","usage_object":{' ..
            '"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d,' ..
            '"cache_creation_tokens":0}}},"response_cost":0.00036250000000000003}',
            word, made, now, made % 1000000, prompt, hash, 1000 + made % 977, 100 + made % 89, 1100 + made % 977 + made % 89, made % 997)
    end
    return wrk.format(nil, nil, nil, "[" .. table.concat(events, ",") .. "]")
end
