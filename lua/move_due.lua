#!lua flags=allow-oom
-- Move entries that have become due back into their streams.
-- Allowed above maxmemory: what was put off there must come back to be finished. It moves, it does not grow.
--
-- KEYS[2n-1]  stream  work
-- KEYS[2n]    zset    its entries by the time they are due, ms
-- ARGV[1]  how many of each stream at the most
--
-- Reply: [outcome, how many, ms until the next one is due or -1]
--   moved   at least one entry was due
--   idle    none was

local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local moved, wait = 0, -1
for i = 1, #KEYS, 2 do
  local due = call('ZRANGEBYSCORE', KEYS[i + 1], '-inf', now, 'LIMIT', 0, ARGV[1])
  for _, member in ipairs(due) do
    local attempt, event = string.match(member, '^(%d+) (.*)$')
    call('XADD', KEYS[i], '*', 'event', event, 'attempt', attempt)
    call('ZREM', KEYS[i + 1], member)
  end
  moved = moved + #due
  local nearest = call('ZRANGE', KEYS[i + 1], 0, 0, 'WITHSCORES')
  if nearest[2] then
    local left = math.max(0, tonumber(nearest[2]) - now)
    if wait < 0 or left < wait then wait = left end
  end
end
return { moved > 0 and 'moved' or 'idle', moved, wait }
