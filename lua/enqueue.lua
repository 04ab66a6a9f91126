#!lua
-- Put events into a stream, each unless it is on its way there: waiting, being worked on, or due later.
--
-- KEYS[1]  stream  of the destination
-- KEYS[2]  set     events on their way in it
-- ARGV     event, attempt, event, attempt, ...
--
-- Reply: [outcome, how many]
--   enqueued    that many were not on their way and are now
--   on_its_way  all of them were

local added = 0
for i = 1, #ARGV, 2 do
  if redis.call('SADD', KEYS[2], ARGV[i]) == 1 then
    redis.call('XADD', KEYS[1], '*', 'event', ARGV[i], 'attempt', ARGV[i + 1])
    added = added + 1
  end
end
return { added > 0 and 'enqueued' or 'on_its_way', added }
