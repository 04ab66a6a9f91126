#!lua
-- Move entries that have become due back into their stream.
--
-- KEYS[1]  stream  work
-- KEYS[2]  zset    entries by the time they are due, ms
-- ARGV[1]  how many at the most
--
-- Reply: [outcome, how many, ms until the next one is due or -1]
--   moved   at least one entry was due
--   idle    none was

local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, member in ipairs(due) do
  local attempt, event = string.match(member, '^(%d+) (.*)$')
  call('XADD', KEYS[1], '*', 'event', event, 'attempt', attempt)
  call('ZREM', KEYS[2], member)
end
local nearest = call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local wait = nearest[2] and math.max(0, tonumber(nearest[2]) - now) or -1
return { #due > 0 and 'moved' or 'idle', #due, wait }
