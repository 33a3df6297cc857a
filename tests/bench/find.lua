-- For wrk: finds or creates, the same workspace again and again.
dofile("report.lua")
wrk.method = "PUT"
wrk.body = "{}"
wrk.headers["Content-Type"] = "application/json"
