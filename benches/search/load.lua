-- wrk -s load.lua URL -- FILE: a path of the file at random for each request.
local requests = {}

function init(args)
    math.randomseed(os.time())
    for path in io.lines(args[1]) do requests[#requests + 1] = wrk.format("GET", path) end
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
