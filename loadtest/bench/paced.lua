-- After a script that makes requests: send them at a rate, whatever the answers do, and note how long each took
-- from when it was meant to begin. A request finds that out from its answer, which repeats the correlation id.
-- Arguments beside that script's own: rate (requests a second), count (how many in all).

local ffi = require("ffi")
ffi.cdef([[
  struct bench_time { long seconds; long nanoseconds; };
  int clock_gettime(int clock, struct bench_time *now);
]])
local MONOTONIC, NEVER_MS = 1, 1e9
local time = ffi.new("struct bench_time")
local threads = {}
local every, count, begun = 0, 0, nil
local drawn, sent, last = 0, 0, 0
local due = {} -- when each that was drawn and not sent yet is due
local make_request, read_arguments = request, init
statuses, microseconds = {}, {}

-- Microseconds since the first look.
local function now()
  ffi.C.clock_gettime(MONOTONIC, time)
  local at = tonumber(time.seconds) * 1e6 + tonumber(time.nanoseconds) / 1e3
  begun = begun or at
  return at - begun
end

function setup(thread)
  threads[#threads + 1] = thread
end

function init(arguments)
  read_arguments(arguments)
  for _, argument in ipairs(arguments) do
    local name, value = argument:match("^(%w+)=(.*)$")
    if name == "rate" then every = 1e6 / tonumber(value) elseif name == "count" then count = tonumber(value) end
  end
end

-- Asked for each connection that is free: how many milliseconds until the next request that nobody has taken is due.
-- They are due at random, as pgbench's are at a rate: pauses are distributed exponentially.
function delay()
  if drawn == count then return NEVER_MS end
  local at = now()
  drawn, last = drawn + 1, last - math.log(1 - math.random()) * every
  due[drawn] = last
  return math.max(0, math.ceil((last - at) / 1e3))
end

-- Connections that wait are woken in order: what is sent next was due first. wrk's clock may be a millisecond ahead of
-- this one; what is early counts from when it is sent.
function request()
  local text = make_request()
  if not begun then return text end -- before it connects, wrk looks at one that it does not send
  sent = sent + 1
  local meant = math.min(due[sent], now())
  due[sent] = nil
  local first_line = text:find("\r\n", 1, true) + 1
  return string.format("%sX-Correlation-ID: %d\r\n%s", text:sub(1, first_line), meant, text:sub(first_line + 1))
end

function response(status, headers)
  local meant = headers["X-Correlation-ID"] or headers["x-correlation-id"]
  microseconds[#microseconds + 1] = math.floor(now() - tonumber(meant))
  statuses[status] = (statuses[status] or 0) + 1
end

function done(summary)
  local thread, errors, counted = threads[1], summary.errors, {}
  for status, times in pairs(thread:get("statuses")) do
    counted[#counted + 1] = string.format('"%d":%d', status, times)
  end
  io.write(string.format(
    '\nCOUNTED {"statuses":{%s},"broken":%d,"microseconds":[%s]}\n',
    table.concat(counted, ","), errors.connect + errors.read + errors.write,
    table.concat(thread:get("microseconds"), ",")))
end
