#!lua
-- Take an entry off its stream and put it among the ones that are due later.
--
-- KEYS[1]  stream  work
-- KEYS[2]  zset    entries by the time they are due, ms
-- ARGV[1]  group   ARGV[2] entry id   ARGV[3] delay, ms   ARGV[4] event   ARGV[5] the next attempt's number
--
-- Reply: [outcome]
--   scheduled  it will be moved back when due
--   absent     somebody else finished the entry

local call = redis.call
call('XACK', KEYS[1], ARGV[1], ARGV[2])
if call('XDEL', KEYS[1], ARGV[2]) == 0 then return { 'absent' } end
local time = call('TIME')
local due = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
call('ZADD', KEYS[2], due, ARGV[5] .. ' ' .. ARGV[4])
return { 'scheduled' }
