#!lua
-- Note that an appointment's time is about to be freed, before the commit that frees it, so that a crash in between
-- cannot leave the time taken for ever.
--
-- KEYS[1]  hash    pending claims and releases, by token
-- ARGV[1]  token
-- ARGV[2]  msgpack [ttl_ms, org, appointment, column, start_cell, count, local_day, width]
-- ARGV[3]  considered of the booking, packed as claim_slot.lua packs it (may be empty)
--
-- Reply: [outcome]
--   noted    the release is pending under the token

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local r = cmsgpack.unpack(ARGV[2])
redis.call('HSET', KEYS[1], ARGV[1],
  cmsgpack.pack({ 'release', now_ms + r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], '', ARGV[3] }))
return { 'noted' }
