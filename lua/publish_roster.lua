#!lua
-- Put an organization's roster beside its grid: version, row width, teams, zones, scores, daily limits.
--
-- KEYS[1]  hash    roster
-- KEYS[2]  string  scores, u32 a column, millionths
-- KEYS[3]  string  limits, u16 a column
-- KEYS[4]  string  deficits, i32 a column
-- KEYS[5+] string  every plane and count of the organization, dropped when the row width changes
-- ARGV[1]  version   ARGV[2] width in bytes   ARGV[3] scores   ARGV[4] limits
-- ARGV[5]  deficits from Postgres, used only where Redis has none
-- ARGV[6+] field, value, ... : 'calendar:N' -> (u16 word, u32 members) of each word with members,
--          'zone:N' -> a row with the columns of the zone
--
-- Reply: [outcome, revision]
--   published  the roster is in place
--   present    the same version already was
--   older      Redis holds a newer version; nothing was written

local call = redis.call
local version, width = tonumber(ARGV[1]), tonumber(ARGV[2])
local head = call('HMGET', KEYS[1], 'version', 'width', 'revision')
local present, present_width, revision = tonumber(head[1]), tonumber(head[2]), tonumber(head[3])
if not revision then
  -- Further than any the roster had before Redis was emptied, so that nothing seen then is taken for what is now.
  local time = call('TIME')
  revision = time[1] * 1000000 + time[2]
end
if present and present > version then return { 'older', revision } end
if present == version and call('EXISTS', KEYS[2], KEYS[3], KEYS[4]) == 3 then return { 'present', revision } end
-- Rows of another width cannot be read any more: a missing day is derived again, pending claims kept.
if present_width ~= width then
  for i = 5, #KEYS do call('UNLINK', KEYS[i]) end
end
call('DEL', KEYS[1])
-- In parts: Lua hands over some 8,000 values at once, and an organization may have more calendars than that.
for i = 6, #ARGV, 2000 do call('HSET', KEYS[1], unpack(ARGV, i, math.min(i + 1999, #ARGV))) end
call('HSET', KEYS[1], 'version', version, 'width', width, 'revision', revision + 1)
call('SET', KEYS[2], ARGV[3])
call('SET', KEYS[3], ARGV[4])
call('SET', KEYS[4], ARGV[5], 'NX')
return { 'published', revision + 1 }
