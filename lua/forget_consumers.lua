#!lua flags=allow-oom
-- Drop consumers of a group that are gone: silent for long, with nothing pending, looked at and dropped in one step.
-- A consumer's pending list goes with it, and nobody would find again what it read between a look and its removal.
-- One that is alive after all comes back with its next read. Allowed above maxmemory, for it only frees.
--
-- KEYS[1]  stream  work
-- ARGV[1]  group   ARGV[2] how long they must have been silent, ms
--
-- Reply: [outcome, how many]
--   forgotten  at least one was gone
--   kept       none was

local call = redis.call
local gone = {}
for _, fields in ipairs(call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #fields, 2 do consumer[fields[i]] = fields[i + 1] end
  if consumer.pending == 0 and consumer.idle >= tonumber(ARGV[2]) then gone[#gone + 1] = consumer.name end
end
for _, name in ipairs(gone) do call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], name) end
return { #gone > 0 and 'forgotten' or 'kept', #gone }
