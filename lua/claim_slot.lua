#!lua
-- Admit a batch of requests: count each against its key's rate limit, begin its idempotency key, claim its slot.
--
-- KEYS[1]  hash    pending claims and releases, by token
-- KEYS[2]  string  the epoch the grid belongs to
-- KEYS[n]  the keys the items name by their index: rate counters (string), idempotency marks (string),
--          rosters (hash), open, occupied and full planes (string), day counts (string of u16),
--          scores (string of u32, millionths), limits (string of u16), deficits (string of i32)
-- ARGV[1]  msgpack [claim_ttl_ms, items, epoch]; an item is [rate, idempotency, claim, roster], each false when absent
--          rate        [key, limit, window_ms]                     limit 0 means counted but never refused
--          idempotency [key, fingerprint, mark_ttl_ms, owner]
--          claim       [org, roster, version, width, calendar_field, token, segments, dates, strategy, column, turn,
--                       scores, limits, deficits, start_cell, idempotency_key_name, own]
--            segments  [[open, occupied, first, count, open_first, open_count] ...] one a UTC day
--            dates     [[zone_field or false, full, counts, local_day] ...] one a zone of the team
--            strategy  'balanced' | 'score' | 'requested'; column -1 unless requested
--            own       of an appointment that moves: [appointment, column, start_cell, count, local_day, considered (hex),
--                      search, overlaps]; its time and its count on that day are taken out. search: 'keep' its coach if
--                      possible, 'others' only, 'any'; overlaps [[segment, first, last] ...] are the rows of the wanted
--                      segments that it holds itself. false when a new appointment is booked
--          roster      key of the roster whose version and revision a read wants
--
-- Reply: one array an item: [outcome, rate_count, rate_reset_ms, ...]
--   limited      over the rate limit; nothing else was done
--   suspect      the grid is not of the asker's epoch: it was emptied, or thrown away by somebody
--   admitted     counted (a read): version, revision of the roster (0, 0 when no roster was named)
--   unknown_org  the roster is not in Redis: publish it
--   stale        the roster has another version or width than the claim: version
--   unknown_day  a day of the grid is not in Redis: derive it
--   replay       the idempotency key has its answer: the answer
--   reused       the idempotency key has the answer of another request
--   in_progress  a request with the idempotency key is being carried out
--   taken        nobody of the team is free there: revision of the roster
--   claimed      column, considered (u16 column, u32 share, i32 deficit each, big-endian; empty when the coach is kept),
--                revision of the roster
--   broken       the item could not be evaluated: the message

local band, bor, bnot, lshift = bit.band, bit.bor, bit.bnot, bit.lshift
local unpack_bytes, pack_bytes, floor = struct.unpack, struct.pack, math.floor
local call = redis.call

local pending = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local ttl_ms, items = request[1], request[2]
local current = call('GET', KEYS[2]) == tostring(request[3])
local time = call('TIME')
local now_ms = time[1] * 1000 + floor(time[2] / 1000)

-- struct.unpack also returns the next position, which a variadic band would take for an operand.
local function word_at(bytes, at)
  local value = unpack_bytes('>I4', bytes, at)
  return value
end

local UNITS = 1000000
local ENOUGH = 32
local BITS = {}
for k = 0, 31 do BITS[k] = lshift(1, 31 - k) end
local WORD_OF_SCORES, WORD_OF_DEFICITS = '>' .. string.rep('I4', 32), '>' .. string.rep('i4', 32)

-- What every item of the batch asks for is read once, and what every item changes is written once, by `write_back`.
local rosters, rates, scores_read, deficits_read = {}, {}, {}, {}

local function roster_of(key)
  local seen = rosters[key]
  if not seen then
    local head = call('HMGET', key, 'version', 'width', 'revision')
    seen = { version = tonumber(head[1]), width = tonumber(head[2]), revision = tonumber(head[3] or 0), claims = 0, fields = {} }
    rosters[key] = seen
  end
  return seen
end

local function field_of(key, roster, name)
  local value = roster.fields[name]
  if value == nil then
    value = call('HGET', key, name)
    roster.fields[name] = value
  end
  return value
end

local function count_request(rate)
  local key, limit, window_ms = KEYS[rate[1]], rate[2], rate[3]
  local seen = rates[key]
  if seen then
    seen.count, seen.more = seen.count + 1, seen.more + 1
  else
    seen = { count = call('INCR', key), reset_ms = window_ms, more = 0 }
    local left = seen.count == 1 and -1 or call('PTTL', key)
    if left < 0 then call('PEXPIRE', key, window_ms) else seen.reset_ms = left end
    rates[key] = seen
  end
  return (limit == 0 or seen.count <= limit), seen.count, seen.reset_ms
end

-- The finished answer is 'd' fingerprint(32) answer; the mark of one in flight is 'p' owner.
local function look_up(idempotency)
  local value = call('GET', KEYS[idempotency[1]])
  if not value then return nil end
  if string.sub(value, 1, 1) == 'p' then
    if string.sub(value, 2) == idempotency[4] then return nil end
    return 'in_progress'
  end
  if string.sub(value, 2, 33) ~= idempotency[2] then return 'reused' end
  return 'replay', string.sub(value, 34)
end

-- The rows a claim needs, read once: [bytes of open rows, bytes of occupied rows, rows before the open ones].
local function read_rows(claim, width)
  local rows = {}
  for i, segment in ipairs(claim[7]) do
    local first, count, open_first, open_count = segment[3], segment[4], segment[5], segment[6]
    local occupied = call('GETRANGE', KEYS[segment[2]], first * width, (first + count) * width - 1)
    if #occupied ~= count * width then return nil end
    local open = ''
    if open_count > 0 then
      open = call('GETRANGE', KEYS[segment[1]], open_first * width, (open_first + open_count) * width - 1)
      if #open ~= open_count * width then return nil end
    end
    rows[i] = { open, occupied, open_count, count }
  end
  for i, date in ipairs(claim[8]) do
    local full = call('GETRANGE', KEYS[date[2]], 0, -1)
    if #full ~= width then return nil end
    rows['full' .. i] = full
  end
  return rows
end

local function without(bytes, first, last, width, column)
  local at, bit_value = floor(column / 8) + 1, lshift(1, 7 - column % 8)
  for row = first, last - 1 do
    local i = row * width + at
    local value = band(string.byte(bytes, i), bnot(bit_value))
    bytes = string.sub(bytes, 1, i - 1) .. string.char(value) .. string.sub(bytes, i + 1)
  end
  return bytes
end

-- What the appointment that moves holds itself does not stand in its way.
local function take_own_out(claim, rows, width)
  local own = claim[17]
  for _, overlap in ipairs(own[8]) do
    local segment = rows[overlap[1]]
    segment[2] = without(segment[2], overlap[2], overlap[3], width, own[2])
  end
  for i, date in ipairs(claim[8]) do
    if date[4] == own[5] then rows['full' .. i] = without(rows['full' .. i], 0, 1, width, own[2]) end
  end
end

-- Columns of word `w` that are members, have not reached their day's limit, and are free on every row.
local function free_in_word(claim, rows, zones, width, w, members)
  local at = w * 4 + 1
  local free = 0
  for i in ipairs(claim[8]) do
    local may = bnot(word_at(rows['full' .. i], at))
    if zones[i] then may = band(may, word_at(zones[i], at)) end
    free = bor(free, may)
  end
  free = band(free, members)
  for i = 1, #claim[7] do
    local segment = rows[i]
    local open, occupied = segment[1], segment[2]
    for r = 0, segment[4] - 1 do
      if free == 0 then return 0 end
      free = band(free, bnot(word_at(occupied, r * width + at)))
    end
    for r = 0, segment[3] - 1 do
      if free == 0 then return 0 end
      free = band(free, word_at(open, r * width + at))
    end
  end
  return free
end

local function free_columns(claim, roster, rows, team, wanted)
  local width, found = roster.width, {}
  local zones = {}
  for i, date in ipairs(claim[8]) do
    zones[i] = date[1] and field_of(KEYS[claim[2]], roster, date[1]) or false
  end
  local words = #team / 6
  for step = 0, words - 1 do
    local w, members = unpack_bytes('>HI4', team, ((claim[11] + step) % words) * 6 + 1)
    if wanted >= 0 then
      members = floor(wanted / 32) == w and band(members, BITS[wanted % 32]) or 0
    end
    if members ~= 0 then
      local free = free_in_word(claim, rows, zones, width, w, members)
      if free ~= 0 then
        for k = 0, 31 do
          if band(free, BITS[k]) ~= 0 then found[#found + 1] = w * 32 + k end
        end
      end
    end
    if #found >= ENOUGH then break end
  end
  return found
end

local function candidates(claim, roster, rows, team)
  local own = claim[17]
  if not own then return free_columns(claim, roster, rows, team, claim[10]) end
  take_own_out(claim, rows, roster.width)
  if own[7] == 'keep' then
    local kept = free_columns(claim, roster, rows, team, own[2])
    if #kept > 0 then return kept end
  end
  local found = {}
  for _, column in ipairs(free_columns(claim, roster, rows, team, claim[10])) do
    if own[7] ~= 'others' or column ~= own[2] then found[#found + 1] = column end
  end
  return found
end

local function from_hex(text)
  return (string.gsub(text, '..', function(pair) return string.char(tonumber(pair, 16)) end))
end

-- The 32 integers of a word of columns.
local function word_of(words, key, w, format)
  local of_key = words[key]
  if not of_key then
    of_key = {}
    words[key] = of_key
  end
  local word = of_key[w]
  if not word then
    local bytes = call('GETRANGE', key, w * 128, w * 128 + 127)
    word = { unpack_bytes(format, bytes .. string.rep('\0', 128 - #bytes)) }
    of_key[w] = word
  end
  return word
end

local function weigh(claim, found)
  local scores, deficits = {}, {}
  local w, of_word, owed_in_word = -1, nil, nil
  for i, column in ipairs(found) do
    local k = column % 32 + 1
    if (column - k + 1) / 32 ~= w then
      w = (column - k + 1) / 32
      of_word = word_of(scores_read, KEYS[claim[12]], w, WORD_OF_SCORES)
      owed_in_word = word_of(deficits_read, KEYS[claim[14]], w, WORD_OF_DEFICITS)
    end
    scores[i], deficits[i] = of_word[k], owed_in_word[k]
  end
  return scores, deficits
end

-- The rule of service/domain/assignment.py, held equal by a property test.
local function choose(strategy, found, scores, deficits)
  local shares, best = {}, 1
  if strategy ~= 'balanced' then
    for i = 1, #found do
      if scores[i] > scores[best] or (scores[i] == scores[best] and found[i] < found[best]) then best = i end
      shares[i] = 0
    end
    shares[best] = UNITS
    return best, shares
  end
  local total, given = 0, 0
  for i = 1, #found do total = total + scores[i] end
  for i = 1, #found do
    shares[i] = total > 0 and floor(UNITS * scores[i] / total) or floor(UNITS / #found)
    given = given + shares[i]
  end
  for i = 2, #found do
    local owed, most = deficits[i] + shares[i], deficits[best] + shares[best]
    if owed > most or (owed == most and (scores[i] > scores[best]
        or (scores[i] == scores[best] and found[i] < found[best]))) then
      best = i
    end
  end
  shares[best] = shares[best] + UNITS - given
  return best, shares
end

local function write_claim(claim, idempotency, roster, found, best, shares, deficits)
  local width, column, own = roster.width, found[best], claim[17]
  local kept = own and column == own[2]
  local considered = ''
  if not kept then
    local values = {}
    for i = 1, #found do values[3 * i - 2], values[3 * i - 1], values[3 * i] = found[i], shares[i], deficits[i] end
    considered = pack_bytes('>' .. string.rep('HI4i4', #found), unpack(values))
  end
  local date = claim[8][1]
  for i, candidate in ipairs(claim[8]) do
    if candidate[1] then
      local zone = roster.fields[candidate[1]]
      if band(string.byte(zone, floor(column / 8) + 1), lshift(1, 7 - column % 8)) ~= 0 then date = candidate end
    end
  end
  local before, count = 0, 0
  for _, segment in ipairs(claim[7]) do count = count + segment[4] end
  -- Noted before any bit is set: a process that dies after this line leaves a claim the reconciler can find.
  local entry = { 'claim', now_ms + ttl_ms, claim[1], claim[6], column, claim[15], count, date[4], width, claim[16] or '',
    considered }
  if own then
    entry[1], entry[4] = 'move', own[1]
    -- A coach that is kept has paid already; another one's booking takes back what the old one's did.
    entry[12], entry[13], entry[14], entry[15], entry[16] = own[2], own[3], own[4], own[5], kept and '' or from_hex(own[6])
  end
  call('HSET', pending, claim[6], cmsgpack.pack(entry))
  for _, segment in ipairs(claim[7]) do
    local set = { 'BITFIELD', KEYS[segment[2]] }
    for row = segment[3], segment[3] + segment[4] - 1 do
      local n = #set
      set[n + 1], set[n + 2], set[n + 3], set[n + 4] = 'SET', 'u1', row * width * 8 + column, 1
    end
    call(unpack(set))
  end
  if not (kept and date[4] == own[5]) then
    local taken = call('BITFIELD', KEYS[date[3]], 'INCRBY', 'u16', '#' .. column, 1)[1]
    local limit = call('BITFIELD', KEYS[claim[13]], 'GET', 'u16', '#' .. column)[1]
    if taken >= limit then call('SETBIT', KEYS[date[2]], column, 1) end
  end
  if claim[9] == 'balanced' and not kept then
    for i = 1, #found do
      local k = found[i] % 32 + 1
      local word = deficits_read[KEYS[claim[14]]][(found[i] - k + 1) / 32]
      word[k], word.changed = deficits[i] + shares[i] - (i == best and UNITS or 0), true
    end
  end
  roster.revision, roster.claims = roster.revision + 1, roster.claims + 1
  if idempotency then call('SET', KEYS[idempotency[1]], 'p' .. idempotency[4], 'PX', idempotency[3]) end
  return considered, roster.revision
end

local function evaluate(item, reply)
  local rate, idempotency, claim, read = item[1], item[2], item[3], item[4]
  if rate then
    local allowed
    allowed, reply[2], reply[3] = count_request(rate)
    if not allowed then reply[1] = 'limited' return end
  end
  if not current then reply[1] = 'suspect' return end
  if idempotency then
    local outcome, answer = look_up(idempotency)
    if outcome then reply[1], reply[4] = outcome, answer return end
  end
  if not claim then
    reply[1], reply[4], reply[5] = 'admitted', 0, 0
    if read then
      local roster = roster_of(KEYS[read])
      if not roster.version then reply[1] = 'unknown_org' return end
      reply[4], reply[5] = roster.version, roster.revision
    end
    return
  end
  local roster = roster_of(KEYS[claim[2]])
  if not roster.version then reply[1] = 'unknown_org' return end
  if roster.version ~= claim[3] or roster.width ~= claim[4] then
    reply[1], reply[4] = 'stale', roster.version
    return
  end
  local rows = read_rows(claim, roster.width)
  if not rows then reply[1] = 'unknown_day' return end
  local team = field_of(KEYS[claim[2]], roster, claim[5]) or ''
  local found = candidates(claim, roster, rows, team)
  if #found == 0 then
    reply[1], reply[4] = 'taken', roster.revision
    return
  end
  local scores, deficits = weigh(claim, found)
  local best, shares = choose(claim[9], found, scores, deficits)
  reply[4] = found[best]
  reply[5], reply[6] = write_claim(claim, idempotency, roster, found, best, shares, deficits)
  reply[1] = 'claimed'
end

local function write_back()
  for key, rate in pairs(rates) do
    if rate.more > 0 then call('INCRBY', key, rate.more) end
  end
  for key, roster in pairs(rosters) do
    if roster.claims > 0 then call('HINCRBY', key, 'revision', roster.claims) end
  end
  for key, words in pairs(deficits_read) do
    for w, word in pairs(words) do
      if word.changed then call('SETRANGE', key, w * 128, pack_bytes(WORD_OF_DEFICITS, unpack(word, 1, 32))) end
    end
  end
end

local replies = {}
for i, item in ipairs(items) do
  local reply = { 'broken', 0, 0, '', '', 0 }
  local well, problem = pcall(evaluate, item, reply)
  if not well then
    reply[1], reply[4] = 'broken', type(problem) == 'table' and problem.err or tostring(problem)
  end
  for k = 1, 6 do reply[k] = reply[k] or '' end
  replies[i] = reply
end
write_back()
return replies
