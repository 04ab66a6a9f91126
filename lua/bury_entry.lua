#!lua flags=allow-oom
-- Give an entry up: off its stream and into the dead letters, where it can be seen and replayed.
-- Allowed above maxmemory: what cannot be given up there is taken over and tried again. It moves, it does not grow.
--
-- KEYS[1]  stream  work
-- KEYS[2]  stream  dead letters
-- KEYS[3]  set     events on their way in it
-- ARGV[1]  group   ARGV[2] entry id   ARGV[3] event   ARGV[4] attempts made   ARGV[5] why
--
-- Reply: [outcome]
--   buried  it is among the dead letters
--   absent  somebody else finished the entry

local call = redis.call
call('XACK', KEYS[1], ARGV[1], ARGV[2])
if call('XDEL', KEYS[1], ARGV[2]) == 0 then return { 'absent' } end
call('SREM', KEYS[3], ARGV[3])
call('XADD', KEYS[2], '*', 'event', ARGV[3], 'attempts', ARGV[4], 'error', ARGV[5])
return { 'buried' }
