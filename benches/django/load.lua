-- wrk -s load.lua URL -- list | keyset | orders: random cursors and orders come from files of a line each, orders with a token.
local requests = {}

local function read(name, format)
    for line in io.lines(name) do requests[#requests + 1] = format(line) end
end

function init(args)
    -- The same random numbers for every server would keep what one asked for in the caches of the next.
    math.randomseed(os.time())
    if args[1] == "keyset" then
        read("/tmp/cursors", function(cursor) return wrk.format("GET", "/api/v1/products?limit=20&cursor=" .. cursor) end)
    elseif args[1] == "orders" then
        -- A line of the form "Authorization: Bearer TOKEN", as curl reads it too.
        local authorization = io.lines("/tmp/authorization")():match("^Authorization: (.+)$")
        local headers = { ["Content-Type"] = "application/json", ["Authorization"] = authorization }
        read("/tmp/orders", function(order) return wrk.format("POST", "/api/v1/orders", headers, order) end)
    else
        -- Without this function wrk repeats the one request of its command line, which costs it less.
        request = nil
    end
end

function request()
    return requests[math.random(#requests)]
end

function done(summary, latency)
    local e = summary.errors
    io.write(string.format('{"requests": %d, "rps": %.1f, "p50_ms": %.3f, "p99_ms": %.3f, "errors": %d}\n', summary.requests,
        summary.requests * 1e6 / summary.duration, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        e.connect + e.read + e.write + e.status + e.timeout))
end
