#!lua flags=allow-oom
-- Take finished entries off a stream: acknowledge and delete together, so that the stream's length is the work left.
-- Allowed above maxmemory: what is delivered goes on being read there, and taking it off frees.
--
-- KEYS[1]  stream  work
-- KEYS[2]  set     events on their way in it
-- ARGV[1]  group   ARGV[2+] entry id, its event, entry id, its event, ...
--
-- Reply: [outcome, how many were there]
--   finished  at least one entry was there
--   absent    none was: somebody else finished them

local call = redis.call
local group, entries, events = ARGV[1], {}, {}
for i = 2, #ARGV, 2 do
  entries[#entries + 1], events[#events + 1] = ARGV[i], ARGV[i + 1]
end
local gone = 0
if call('XACK', KEYS[1], group, unpack(entries)) == #entries then
  -- Nobody else had finished any of them: one command each for all.
  gone = call('XDEL', KEYS[1], unpack(entries))
  call('SREM', KEYS[2], unpack(events))
else
  -- The event of an entry that somebody else finished may be on its way again, in another entry.
  for i = 1, #entries do
    if call('XDEL', KEYS[1], entries[i]) == 1 then
      call('SREM', KEYS[2], events[i])
      gone = gone + 1
    end
  end
end
return { gone > 0 and 'finished' or 'absent', gone }
