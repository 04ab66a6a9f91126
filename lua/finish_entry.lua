#!lua
-- Take finished entries off a stream: acknowledge and delete together, so that the stream's length is the work left.
--
-- KEYS[1]  stream  work
-- ARGV[1]  group   ARGV[2+] entry ids
--
-- Reply: [outcome, how many were there]
--   finished  at least one entry was there
--   absent    none was: somebody else finished them

local gone = 0
for i = 2, #ARGV do
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  gone = gone + redis.call('XDEL', KEYS[1], ARGV[i])
end
return { gone > 0 and 'finished' or 'absent', gone }
