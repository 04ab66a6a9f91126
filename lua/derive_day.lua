#!lua
-- Create one day of the grid from what Postgres says, keeping what is pending in Redis.
-- A day covers the planes of a UTC day and the daily counts of the local date with the same number.
--
-- KEYS[1]  hash    pending claims and releases, by token
-- KEYS[2]  hash    coach-days under repair
-- KEYS[3]  hash    roster
-- KEYS[4]  string  open plane    KEYS[5] string occupied plane
-- KEYS[6]  string  full row      KEYS[7] string day counts, u16 a column
-- KEYS[8]  string  limits, u16 a column
-- ARGV[1]  msgpack [org, day, version, width, nonce, expire_at_ms, known]; known lists
--          'appointment:column:start_cell:end_cell' of every live appointment that the planes and counts below already contain,
--          and 'token:side' of pending times (side new, of a move also old) that hold no longer
-- ARGV[2]  open plane   ARGV[3] occupied plane   ARGV[4] day counts
--
-- Reply: [outcome]
--   derived    the day is in place
--   present    it was there already with this width
--   stale      the roster is missing or has another version or width
--   changed    something was settled, released or repaired since Postgres was read: read again

local call = redis.call
local r = cmsgpack.unpack(ARGV[1])
local org, day, version, width, nonce, expire_at_ms = r[1], r[2], r[3], r[4], r[5], r[6]
local head = call('HMGET', KEYS[3], 'version', 'width')
if tonumber(head[1]) ~= version or tonumber(head[2]) ~= width then return { 'stale' } end
local mark = org .. ':' .. day .. ':*'
if call('HGET', KEYS[2], mark) ~= nonce then return { 'changed' } end
if call('STRLEN', KEYS[4]) == 288 * width and call('STRLEN', KEYS[5]) == 288 * width
    and call('STRLEN', KEYS[6]) == width and call('EXISTS', KEYS[7]) == 1 then
  call('HDEL', KEYS[2], mark)
  return { 'present' }
end
local known = {}
for _, identity in ipairs(r[7]) do known[identity] = true end

call('SET', KEYS[4], ARGV[2], 'PXAT', expire_at_ms)
call('SET', KEYS[5], ARGV[3], 'PXAT', expire_at_ms)
call('SET', KEYS[7], ARGV[4], 'PXAT', expire_at_ms)
-- The times a pending entry holds: of a move both, the new one and the old one, until it is settled or released.
local function runs_of(entry)
  local runs = { { entry[5], entry[6], entry[7], entry[8], 'new' } }
  if entry[12] then runs[2] = { entry[12], entry[13], entry[14], entry[15], 'old' } end
  return runs
end

local pending = call('HGETALL', KEYS[1])
for i = 1, #pending, 2 do
  local token, entry = pending[i], cmsgpack.unpack(pending[i + 1])
  local counted = {}
  for _, run in ipairs(entry[3] == org and runs_of(entry) or {}) do
    local column, start, last = run[1], run[2], run[2] + run[3]
    local there = known[entry[4] .. ':' .. column .. ':' .. start .. ':' .. last] or known[token .. ':' .. run[5]] or false
    for cell = math.max(start, day * 288), there and 0 or math.min(last, (day + 1) * 288) - 1 do
      call('SETBIT', KEYS[5], (cell - day * 288) * width * 8 + column, 1)
    end
    -- Two times of one coach on one day are one appointment.
    if run[4] == day then counted[column] = counted[column] or there end
  end
  for column, there in pairs(counted) do
    if not there then call('BITFIELD', KEYS[7], 'INCRBY', 'u16', '#' .. column, 1) end
  end
end
call('SET', KEYS[6], string.rep('\0', width), 'PXAT', expire_at_ms)
local counts, limits = call('GET', KEYS[7]), call('GET', KEYS[8]) or ''
for column = 0, math.min(#counts, #limits) / 2 - 1 do
  local count = struct.unpack('>I2', counts, column * 2 + 1)
  if count >= struct.unpack('>I2', limits, column * 2 + 1) then call('SETBIT', KEYS[6], column, 1) end
end
call('HINCRBY', KEYS[3], 'revision', 1)
call('HDEL', KEYS[2], mark)
return { 'derived' }
