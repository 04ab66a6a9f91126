-- After a script that makes requests: send them at a fixed rate, whatever the answers do, and note how long each took
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
local every, count, begun, due, sent = 0, 0, nil, 0, 0
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
function delay()
  if due == count then return NEVER_MS end
  local at = due * every
  due = due + 1
  return math.max(0, math.ceil((at - now()) / 1e3))
end

-- Connections that wait are woken in order: what is sent next was due first, and is due by now.
function request()
  local meant = sent * every
  sent = sent + 1
  local text = make_request()
  local first_line = text:find("\r\n", 1, true) + 1
  return string.format("%sX-Correlation-ID: %d\r\n%s", text:sub(1, first_line), meant, text:sub(first_line + 1))
end

function response(status, headers)
  microseconds[#microseconds + 1] = math.floor(now() - tonumber(headers["X-Correlation-ID"]))
  statuses[status] = (statuses[status] or 0) + 1
end

function done()
  local counted = {}
  for status, times in pairs(threads[1]:get("statuses")) do
    counted[#counted + 1] = string.format('"%d":%d', status, times)
  end
  io.write(string.format(
    '\nCOUNTED {"statuses":{%s},"microseconds":[%s]}\n',
    table.concat(counted, ","), table.concat(threads[1]:get("microseconds"), ",")))
end
