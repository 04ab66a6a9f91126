#!lua flags=allow-oom
-- Take entries off their stream and put them among those that are due later.
-- Allowed above maxmemory: what cannot be put off there is taken over and tried again. It moves, it does not grow.
--
-- KEYS[1]  stream  work
-- KEYS[2]  zset    entries by the time they are due, ms
-- ARGV[1]  group   ARGV[2+] entry id, delay in ms, event, the next attempt's number, and so on for the next entry
--
-- Reply: [outcome, how many were there]
--   scheduled  at least one will be moved back when due
--   absent     none was there: somebody else finished them

local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local scheduled = 0
for i = 2, #ARGV, 4 do
  local entry, delay, event, attempt = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  call('XACK', KEYS[1], ARGV[1], entry)
  if call('XDEL', KEYS[1], entry) == 1 then
    call('ZADD', KEYS[2], now + tonumber(delay), attempt .. ' ' .. event)
    scheduled = scheduled + 1
  end
end
return { scheduled > 0 and 'scheduled' or 'absent', scheduled }
