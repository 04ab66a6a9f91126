#!lua
-- Take finished entries off a stream: acknowledge and delete together, so that the stream's length is the work left.
--
-- KEYS[1]  stream  work
-- KEYS[2]  set     events on their way in it
-- ARGV[1]  group   ARGV[2+] entry id, its event, entry id, its event, ...
--
-- Reply: [outcome, how many were there]
--   finished  at least one entry was there
--   absent    none was: somebody else finished them

local gone = 0
for i = 2, #ARGV, 2 do
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  if redis.call('XDEL', KEYS[1], ARGV[i]) == 1 then
    redis.call('SREM', KEYS[2], ARGV[i + 1])
    gone = gone + 1
  end
end
return { gone > 0 and 'finished' or 'absent', gone }
