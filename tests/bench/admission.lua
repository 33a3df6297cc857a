-- For wrk: asks whether a call may be made, as LiteLLM's guardrail does. Arguments: the key's hash, bytes of the prompt.
dofile("report.lua")

function init(args)
    local text = string.rep('Say it in \\"one\\" word, {please}. ', math.floor(tonumber(args[2]) / 68))
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/json"
    wrk.body = '{"input_type":"request","litellm_call_id":"a","structured_messages":[{"role":"user","content":"' .. text ..
        '"}],"texts":["' .. text .. '"],"request_data":{"user_api_key_hash":"' .. args[1] .. '"},"model":"claude-sonnet-4-5"}'
end
