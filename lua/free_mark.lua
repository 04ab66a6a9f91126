#!lua
-- Free the mark of an idempotency key whose request was refused, unless it is somebody else's or has its answer.
--
-- KEYS[1]  string  mark or answer of the key
-- ARGV[1]  owner of the mark
--
-- Reply: [outcome]
--   freed   the mark is gone
--   absent  there was no mark of this owner

if redis.call('GET', KEYS[1]) ~= 'p' .. ARGV[1] then return { 'absent' } end
redis.call('DEL', KEYS[1])
return { 'freed' }
