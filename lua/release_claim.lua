#!lua
-- Release what a token holds: free its cells, give its day back, take back what the booking did to the deficits.
-- Of a move it is one of two times: the new one when it failed, the old one when it was committed.
-- The token is consumed; a late or repeated release finds nothing and frees nothing of anybody else's.
--
-- KEYS[1]  hash    pending claims and releases, by token
-- KEYS[2]  hash    coach-days under repair
-- KEYS[n]  the keys the items name by their index: occupied planes, full planes, day counts, limits, deficits,
--          rosters, idempotency marks
-- ARGV[1]  msgpack items; an item is [token, roster, segments, full, counts, limits, deficits, mark, side, frees]
--          segments [[occupied, first, count] ...], each within a UTC day
--          full     false when the day keeps its count
--          mark     the idempotency mark of a failed claim, false when there was no key
--          side     'new' or 'old': which time of the entry; only a move has an old one
--          frees    false when only the token goes: cells and count are put right by whoever asks
--
-- Reply: one outcome an item
--   released  the cells are free
--   absent    nothing was pending under the token
--   late      a change past its deadline is the reconciler's, which may have freed the time already: nothing was done
--   broken    the item could not be evaluated

local call = redis.call
local pending, repairs = KEYS[1], KEYS[2]
local items = cmsgpack.unpack(ARGV[1])
local under_repair = call('HLEN', repairs) > 0
local UNITS = 1000000
local time = call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function disturb_run(org, column, start, count, local_day)
  local days = { [local_day] = true }
  for day = math.floor(start / 288), math.floor((start + count - 1) / 288) do days[day] = true end
  for day in pairs(days) do
    call('HDEL', repairs, org .. ':' .. day .. ':' .. column, org .. ':' .. day .. ':*')
  end
end

local function disturb(entry)
  disturb_run(entry[3], entry[5], entry[6], entry[7], entry[8])
  if entry[12] then disturb_run(entry[3], entry[12], entry[13], entry[14], entry[15]) end
end

local function release(item)
  local token = item[1]
  local packed = call('HGET', pending, token)
  if not packed then return 'absent' end
  local entry = cmsgpack.unpack(packed)
  if item[10] and entry[1] ~= 'claim' and entry[2] <= now_ms then return 'late' end
  local column, considered = entry[5], entry[11]
  if item[9] == 'old' then column, considered = entry[12], entry[16] end
  if under_repair then disturb(entry) end
  for _, segment in ipairs(item[3]) do
    local key = KEYS[segment[1]]
    -- The plane's own width, not the claim's: a day derived in wider rows since then has kept the claim. A plane that
    -- is gone will be derived from Postgres.
    local width = call('STRLEN', key) / 288
    if column < width * 8 then
      local clear = { 'BITFIELD', key }
      for row = segment[2], segment[2] + segment[3] - 1 do
        local n = #clear
        clear[n + 1], clear[n + 2], clear[n + 3], clear[n + 4] = 'SET', 'u1', row * width * 8 + column, 0
      end
      call(unpack(clear))
    end
  end
  local full, counts, limits = item[4] and KEYS[item[4]], KEYS[item[5]], KEYS[item[6]]
  if full and column < call('STRLEN', full) * 8 then
    local left = call('BITFIELD', counts, 'OVERFLOW', 'SAT', 'INCRBY', 'u16', '#' .. column, -1)[1]
    local limit = call('BITFIELD', limits, 'GET', 'u16', '#' .. column)[1]
    call('SETBIT', full, column, left >= limit and 1 or 0)
  end
  local size = math.floor(#considered / 10)
  if size > 0 and call('EXISTS', KEYS[item[7]]) == 1 then
    local back = { 'BITFIELD', KEYS[item[7]] }
    for i = 0, size - 1 do
      local candidate, share = struct.unpack('>HI4', considered, i * 10 + 1)
      local delta = share - (candidate == column and UNITS or 0)
      if delta ~= 0 then
        local n = #back
        back[n + 1], back[n + 2], back[n + 3], back[n + 4] = 'INCRBY', 'i32', '#' .. candidate, -delta
      end
    end
    if #back > 2 then call(unpack(back)) end
  end
  if call('EXISTS', KEYS[item[2]]) == 1 then call('HINCRBY', KEYS[item[2]], 'revision', 1) end
  if item[8] and call('GET', KEYS[item[8]]) == 'p' .. token then call('DEL', KEYS[item[8]]) end
  call('HDEL', pending, token)
  return 'released'
end

local outcomes = {}
for i, item in ipairs(items) do
  local well, outcome = pcall(release, item)
  outcomes[i] = well and outcome or 'broken'
end
return outcomes
