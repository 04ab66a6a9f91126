#!lua
-- Make one coach's column of one day what Postgres says, keeping what is pending in Redis; or only count how it differs.
-- A day covers the planes of a UTC day and the daily count of the local date with the same number.
--
-- KEYS[1]  hash    pending claims and releases, by token
-- KEYS[2]  hash    coach-days under repair
-- KEYS[3]  hash    roster
-- KEYS[4]  string  open plane    KEYS[5] string occupied plane
-- KEYS[6]  string  full row      KEYS[7] string day counts, u16 a column
-- KEYS[8]  string  limits, u16 a column
-- ARGV[1]  msgpack [org, day, column, version, width, nonce, write, count, known]; write is 1 to repair and 0 to compare;
--          known lists 'appointment:column:start_cell:end_cell' of the live appointments that the bits and count contain, and
--          'token:side' of pending times (side new, of a move also old) that hold no longer
-- ARGV[2]  288 bits of the column in the open plane   ARGV[3] the same for the occupied plane
--
-- Reply: [outcome, open bits that differed, occupied bits that differed, 1 if the count or the full bit differed, revision of
--         the roster after it: who claims from then on sees the column so]
--   repaired     the column is as Postgres says
--   compared     nothing was written
--   stale        the roster is missing or has another version or width
--   unknown_day  the day is not in Redis
--   changed      something was settled, released or repaired since Postgres was read: read again

local call = redis.call
local band, lshift = bit.band, bit.lshift
local r = cmsgpack.unpack(ARGV[1])
local org, day, column, version, width, nonce, write, count = r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8]
local head = call('HMGET', KEYS[3], 'version', 'width', 'revision')
if tonumber(head[1]) ~= version or tonumber(head[2]) ~= width then return { 'stale', 0, 0, 0, 0 } end
local revision = tonumber(head[3] or 0)
local mark = org .. ':' .. day .. ':' .. column
if call('HGET', KEYS[2], mark) ~= nonce then return { 'changed', 0, 0, 0, 0 } end
if call('STRLEN', KEYS[4]) ~= 288 * width or call('STRLEN', KEYS[5]) ~= 288 * width
    or call('STRLEN', KEYS[6]) ~= width then
  call('HDEL', KEYS[2], mark)
  return { 'unknown_day', 0, 0, 0, revision }
end
local known = {}
for _, identity in ipairs(r[9]) do known[identity] = true end

local function bits_of(bytes)
  local bits = {}
  for row = 0, 287 do
    bits[row] = band(string.byte(bytes, math.floor(row / 8) + 1), lshift(1, 7 - row % 8)) ~= 0 and 1 or 0
  end
  return bits
end

-- The times a pending entry holds: of a move both, the new one and the old one, until it is settled or released.
local function runs_of(entry)
  local runs = { { entry[5], entry[6], entry[7], entry[8], 'new' } }
  if entry[12] then runs[2] = { entry[12], entry[13], entry[14], entry[15], 'old' } end
  return runs
end

local open, occupied = bits_of(ARGV[2]), bits_of(ARGV[3])
local pending = call('HGETALL', KEYS[1])
for i = 1, #pending, 2 do
  local token, entry = pending[i], cmsgpack.unpack(pending[i + 1])
  local counts_here, counted = false, false
  for _, run in ipairs(entry[3] == org and runs_of(entry) or {}) do
    local start, last = run[2], run[2] + run[3]
    if run[1] == column then
      local there = known[entry[4] .. ':' .. column .. ':' .. start .. ':' .. last] or known[token .. ':' .. run[5]]
      for cell = math.max(start, day * 288), there and 0 or math.min(last, (day + 1) * 288) - 1 do
        occupied[cell - day * 288] = 1
      end
      -- Two times of one coach on one day are one appointment.
      if run[4] == day then counts_here, counted = true, counted or there end
    end
  end
  if counts_here and not counted then count = count + 1 end
end

local function apply(key, wanted)
  local plane, differing = call('GET', key), 0
  local at, bit_value = math.floor(column / 8) + 1, lshift(1, 7 - column % 8)
  for row = 0, 287 do
    local present = band(string.byte(plane, row * width + at), bit_value) ~= 0 and 1 or 0
    if present ~= wanted[row] then
      differing = differing + 1
      if write == 1 then call('SETBIT', key, row * width * 8 + column, wanted[row]) end
    end
  end
  return differing
end

local open_differs, occupied_differs = apply(KEYS[4], open), apply(KEYS[5], occupied)
local limit = call('BITFIELD', KEYS[8], 'GET', 'u16', '#' .. column)[1]
local full = count >= limit and 1 or 0
local count_differs = 0
if call('BITFIELD', KEYS[7], 'GET', 'u16', '#' .. column)[1] ~= count or call('GETBIT', KEYS[6], column) ~= full then
  count_differs = 1
  if write == 1 then
    call('BITFIELD', KEYS[7], 'SET', 'u16', '#' .. column, count)
    call('SETBIT', KEYS[6], column, full)
  end
end
call('HDEL', KEYS[2], mark)
if write == 1 and open_differs + occupied_differs + count_differs > 0 then
  revision = call('HINCRBY', KEYS[3], 'revision', 1)
end
return { write == 1 and 'repaired' or 'compared', open_differs, occupied_differs, count_differs, revision }
