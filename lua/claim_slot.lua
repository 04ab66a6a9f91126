#!lua
-- Admit a batch of requests: count each against its key's rate limit, begin its idempotency key, claim its slot.
--
-- KEYS[1]  hash    pending claims and releases, by token
-- KEYS[2]  string  the epoch the grid belongs to
-- KEYS[n]  the keys the items name by their index: rate counters (string), idempotency marks (string),
--          rosters (hash), open, occupied and full planes (string), day counts (string of u16),
--          scores (string of u32, millionths), limits (string of u16), deficits (string of i32)
-- ARGV[1]  msgpack [claim_ttl_ms, items, epoch]; an item is [rate, idempotency, claim, roster], each false when absent
--          rate        [key, limit, window_ms, times]              limit 0 means counted but never refused; `times`
--                                                                  requests at once are `limited` when all of them are
--          idempotency [key, fingerprint, mark_ttl_ms, owner]
--          claim       [org, roster, version, width, calendar_field, token, segments, dates, strategy, column, draws,
--                       scores, limits, deficits, start_cell, idempotency_key_name, own]
--            segments  [[open, occupied, first, count, open_first, open_count] ...] one a UTC day
--            dates     [[zone_field or false, full, counts, local_day] ...] one a zone of the team
--            strategy  'balanced' | 'score' | 'requested'; column -1 unless requested
--            draws     [number, column ...]: looking begins at the first of the columns that is free; where none is, at the
--                      free one that the number tells. No columns of a team of one word, which is looked at whole
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
--   taken        nobody of the team is free there, nor will be until something is freed: revision of the roster, and how
--                much of it is not claims, which still_taken.lua compares
--   claimed      column, considered (u16 column, u32 share, i32 deficit each, big-endian; empty when the coach is kept),
--                revision of the roster
--   broken       the item could not be evaluated: the message

local band, bor, bnot, lshift, rshift = bit.band, bit.bor, bit.bnot, bit.lshift, bit.rshift
local unpack_bytes, pack_bytes, floor, find = struct.unpack, struct.pack, math.floor, string.find
-- What is always the same is given to `call` as text: each number it is given is printed first.
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
-- The bit of each column of a word, written out because each call would make it anew.
local BITS = { [0] = 2147483648, 1073741824, 536870912, 268435456, 134217728, 67108864, 33554432, 16777216, 8388608,
  4194304, 2097152, 1048576, 524288, 262144, 131072, 65536, 32768, 16384, 8192, 4096, 2048, 1024, 512, 256, 128, 64, 32,
  16, 8, 4, 2, 1 }
-- How the integers of a word of columns are packed, and in how many bytes.
local SCORES, DEFICITS, LIMITS = { 'I4', 128 }, { 'i4', 128 }, { 'I2', 64 }
for _, form in ipairs({ SCORES, DEFICITS, LIMITS }) do form[1] = '>' .. string.rep(form[1], 32) end
-- Forms by how often they are repeated, made when they are asked for.
local function repeated(part)
  return setmetatable({}, { __index = function(forms, times)
    forms[times] = '>' .. string.rep(part, times)
    return forms[times]
  end })
end
local CONSIDERED, ROWS_OF_ONE_WORD = repeated('HI4i4'), repeated('I4')
-- From so many words on, words in which everybody is taken are passed over by looking for a byte that is not full.
local WIDE = 8

-- What every item of the batch asks for is read once, and what every item changes is written once, by `write_back`.
local rosters, rates, scores_read, deficits_read, limits_read = {}, {}, {}, {}, {}

local function roster_of(key)
  local seen = rosters[key]
  if not seen then
    local head = call('HMGET', key, 'version', 'width', 'revision', 'claims')
    seen = { version = tonumber(head[1]), width = tonumber(head[2]), revision = tonumber(head[3] or 0), claims = 0, fields = {} }
    -- A claim frees nothing: what else changed the roster or its days may have.
    seen.freed = seen.revision - tonumber(head[4] or 0)
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
  local key, limit, window_ms, times = KEYS[rate[1]], rate[2], rate[3], rate[4]
  local seen = rates[key]
  if seen then
    seen.count, seen.more = seen.count + times, seen.more + times
  else
    seen = { count = call('INCRBY', key, times), reset_ms = window_ms, more = 0 }
    local left = seen.count == times and -1 or call('PTTL', key)
    if left < 0 then call('PEXPIRE', key, window_ms) else seen.reset_ms = left end
    rates[key] = seen
  end
  return (limit == 0 or seen.count - times < limit), seen.count, seen.reset_ms
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

-- What a claim has read and found, in lists that each claim fills anew because they have grown already.
local rows, fulls, zones = {}, {}, {}
local found, scores, deficits, words_owed, values = {}, {}, {}, {}, {}

-- Read the rows a claim needs: of each segment {open rows, occupied rows, how many of each}, and the full rows.
-- Returns whether they are all there.
local function read_rows(claim, width)
  local segments, dates = claim[7], claim[8]
  rows.n, fulls.n = #segments, #dates
  for i = 1, rows.n do
    local segment = segments[i]
    local first, count, open_first, open_count = segment[3], segment[4], segment[5], segment[6]
    local occupied = call('GETRANGE', KEYS[segment[2]], first * width, (first + count) * width - 1)
    if #occupied ~= count * width then return false end
    local open = ''
    if open_count > 0 then
      open = call('GETRANGE', KEYS[segment[1]], open_first * width, (open_first + open_count) * width - 1)
      if #open ~= open_count * width then return false end
    end
    local row = rows[i] or {}
    row[1], row[2], row[3], row[4] = open, occupied, open_count, count
    rows[i] = row
  end
  for i = 1, fulls.n do
    local full = call('GETRANGE', KEYS[dates[i][2]], '0', '-1')
    if #full ~= width then return false end
    fulls[i] = full
  end
  return true
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
local function take_own_out(claim, width)
  local own = claim[17]
  for _, overlap in ipairs(own[8]) do
    local segment = rows[overlap[1]]
    segment[2] = without(segment[2], overlap[2], overlap[3], width, own[2])
  end
  for i, date in ipairs(claim[8]) do
    if date[4] == own[5] then fulls[i] = without(fulls[i], 0, 1, width, own[2]) end
  end
end

-- Columns of word `w` that are members, have not reached their day's limit, and are free on every row.
local function free_in_word(width, w, members)
  local at = w * 4 + 1
  local free = members
  for i = 1, rows.n do
    if free == 0 then return 0 end
    local segment = rows[i]
    local open, occupied, open_count, count = segment[1], segment[2], segment[3], segment[4]
    -- Rows of one word lie side by side: three are unpacked at once.
    local by_threes = width == 4 and count - count % 3 or 0
    for row = 0, by_threes - 1, 3 do
      local one, two, three = unpack_bytes('>I4I4I4', occupied, row * 4 + 1)
      free = band(free, bnot(bor(one, two, three)))
    end
    for row = by_threes, count - 1 do
      if free == 0 then return 0 end
      free = band(free, bnot(word_at(occupied, at + row * width)))
    end
    by_threes = width == 4 and open_count - open_count % 3 or 0
    for row = 0, by_threes - 1, 3 do
      local one, two, three = unpack_bytes('>I4I4I4', open, row * 4 + 1)
      free = band(free, one, two, three)
    end
    for row = by_threes, open_count - 1 do
      if free == 0 then return 0 end
      free = band(free, word_at(open, at + row * width))
    end
  end
  if free == 0 then return 0 end
  local may = 0
  for i = 1, fulls.n do
    local of_date = bnot(word_at(fulls[i], at))
    if zones[i] then of_date = band(of_date, word_at(zones[i], at)) end
    may = bor(may, of_date)
  end
  return band(free, may)
end

-- The first word from `w` on that has somebody who is not taken on the first row, nil when there is none.
local function not_taken_from(width, w)
  local at = find(rows[1][2], '[^\255]', w * 4 + 1)
  if at and at <= width then return floor((at - 1) / 4) end
end

local function from_hex(text)
  return (string.gsub(text, '..', function(pair) return string.char(tonumber(pair, 16)) end))
end

-- The 32 integers of a word of columns.
local function word_of(words, key, w, form)
  local of_key = words[key]
  if not of_key then
    of_key = {}
    words[key] = of_key
  end
  local word = of_key[w]
  if not word then
    local size = form[2]
    local bytes = call('GETRANGE', key, w * size, w * size + size - 1)
    word = { unpack_bytes(form[1], bytes .. string.rep('\0', size - #bytes)) }
    of_key[w] = word
  end
  return word
end

-- The columns whose bits are set in word `w`, behind the `n` of `found` so far, until there are `enough`; how many there
-- are now.
local function add_columns(found, n, w, free, enough)
  local first = w * 32
  if free == -1 and n == 0 then -- all of them
    for k = 1, 32 do found[k] = first + k - 1 end
    return 32
  end
  local left = free % 4294967296
  for k = 0, 31 do
    local place = BITS[k]
    if left >= place then
      n = n + 1
      found[n] = first + k
      left = left - place
      if left == 0 or n == enough then break end
    end
  end
  return n
end

-- The place of the first word of the team that is `w` or behind it.
local function place_of(team, words, w)
  local low, high = 0, words
  while low < high do
    local middle = floor((low + high) / 2)
    if unpack_bytes('>H', team, middle * 6 + 1) < w then low = middle + 1 else high = middle end
  end
  return low
end

-- The first of those drawn who is free. Not who stands behind one that is not: behind many of them it would be considered
-- more often than others.
local function drawn_free(draws, width)
  for i = 2, #draws do
    local column = draws[i]
    if free_in_word(width, floor(column / 32), BITS[column % 32]) ~= 0 then return column end
  end
end

-- How many of the team's words from a place on are passed over because everybody there is taken.
local function taken_words(width, w, words, place)
  return math.min((not_taken_from(width, w) or width) - w, words - place)
end

-- Put free columns of the team into `found`, in turn from the one that the number tells, until there are enough; how many.
local function find_in_all(width, team, words, leap, number)
  local all, n, place = {}, 0, 0
  while place < words do
    local w, members = unpack_bytes('>HI4', team, place * 6 + 1)
    local passed = leap and taken_words(width, w, words, place) or 0
    if passed == 0 then
      local free = free_in_word(width, w, members)
      if free ~= 0 then n = add_columns(all, n, w, free) end
      passed = 1
    end
    place = place + passed
  end
  local looked_at = math.min(n, ENOUGH)
  for i = 1, looked_at do found[i] = all[(number + i - 1) % n + 1] end
  return looked_at
end

-- Put free columns of the team into `found`, in turn from the one that looking begins at, until there are enough; how many.
local function find_free(claim, roster, team, wanted)
  local width, dates, n = roster.width, claim[8], 0
  for i = 1, #dates do
    local zone = dates[i][1]
    zones[i] = zone and field_of(KEYS[claim[2]], roster, zone)
  end
  local words = #team / 6
  if words == 0 then return 0 end
  if wanted >= 0 then
    local place = place_of(team, words, floor(wanted / 32)) % words
    local word, members = unpack_bytes('>HI4', team, place * 6 + 1)
    if word ~= floor(wanted / 32) then return 0 end
    local free = free_in_word(width, word, band(members, BITS[wanted % 32]))
    return free == 0 and 0 or add_columns(found, 0, word, free, ENOUGH)
  end
  if words == 1 then
    local word, members = unpack_bytes('>HI4', team)
    local free = free_in_word(width, word, members)
    return free == 0 and 0 or add_columns(found, 0, word, free, ENOUGH)
  end
  -- Of a team without gaps so many words further is so many places further.
  local leap = words >= WIDE and unpack_bytes('>H', team, #team - 5) - unpack_bytes('>H', team) == words - 1
  local begin = drawn_free(claim[11], width)
  if not begin then return find_in_all(width, team, words, leap, claim[11][1]) end
  local place = place_of(team, words, floor(begin / 32))
  -- In the middle of a word its end is looked at first and its beginning last.
  local behind = begin % 32 > 0 and rshift(-1, begin % 32)
  local left = behind and words + 1 or words
  while left > 0 do
    local w, members = unpack_bytes('>HI4', team, place * 6 + 1)
    local passed = leap and math.min(taken_words(width, w, words, place), left) or 0
    if passed > 0 then
      left, place = left - passed, (place + passed) % words
    else
      if behind and left > words then
        members = band(members, behind)
      elseif behind and left == 1 then
        members = band(members, bnot(behind))
      end
      if members ~= 0 then
        local free = free_in_word(width, w, members)
        if free ~= 0 then n = add_columns(found, n, w, free, ENOUGH) end
        if n >= ENOUGH then break end
      end
      left, place = left - 1, (place + 1) % words
    end
  end
  return n
end

-- Behind the `n` found, the best-scored of all that are free, but for column `without`; how many there are now.
local function add_best(claim, roster, team, n, without)
  -- The best score of each word, free or not; a release of before does not tell it.
  local tops = field_of(KEYS[claim[2]], roster, 'tops')
  local best, most = nil, -1
  for place = 0, #team / 6 - 1 do
    local w, members = unpack_bytes('>HI4', team, place * 6 + 1)
    if not tops or word_at(tops, w * 4 + 1) > most then
      if floor(without / 32) == w then members = band(members, bnot(BITS[without % 32])) end
      local free = free_in_word(roster.width, w, members)
      if free ~= 0 then
        local of_word, left = word_of(scores_read, KEYS[claim[12]], w, SCORES), free % 4294967296
        for k = 0, 31 do
          if left >= BITS[k] then
            left = left - BITS[k]
            if of_word[k + 1] > most then best, most = w * 32 + k, of_word[k + 1] end
          end
        end
      end
    end
  end
  for i = 1, n do
    if found[i] == best then return n end
  end
  found[n + 1] = best
  return n + 1
end

-- Put the columns that come into question into `found`; how many.
local function find_candidates(claim, roster, team)
  local own, by_score = claim[17], claim[9] == 'score'
  if not own then
    local n = find_free(claim, roster, team, claim[10])
    return by_score and n == ENOUGH and add_best(claim, roster, team, n, -1) or n
  end
  take_own_out(claim, roster.width)
  if own[7] == 'keep' then
    local kept = find_free(claim, roster, team, own[2])
    if kept > 0 then return kept end
  end
  local others, n = own[7] == 'others', 0
  local looked_at = find_free(claim, roster, team, claim[10])
  for i = 1, looked_at do
    if not others or found[i] ~= own[2] then
      n = n + 1
      found[n] = found[i]
    end
  end
  return by_score and looked_at == ENOUGH and add_best(claim, roster, team, n, others and own[2] or -1) or n
end

-- What each of the `n` found columns scores and is owed, and the word of deficits it stands in; all scores together.
local function weigh(claim, n)
  local scores_key, deficits_key = KEYS[claim[12]], KEYS[claim[14]]
  local before, past, of_word, owed_in_word, total = 0, 0, nil, nil, 0
  for i = 1, n do
    local column = found[i]
    if column <= before or column >= past then
      local w = floor(column / 32)
      before, past = w * 32 - 1, w * 32 + 32
      of_word = word_of(scores_read, scores_key, w, SCORES)
      owed_in_word = word_of(deficits_read, deficits_key, w, DEFICITS)
    end
    local k = column - before
    local score = of_word[k]
    scores[i], deficits[i], words_owed[i], total = score, owed_in_word[k], owed_in_word, total + score
  end
  return total
end

-- The rule of service/domain/assignment.py, held equal by a property test: the place of who gets it among the `n` found.
-- What is kept of each goes into `values`: column, share, deficit.
local function choose(strategy, n, total)
  local best, most, best_score, given, at = 1, nil, nil, 0, 1
  local balanced = strategy == 'balanced'
  local equal = total == 0 and floor(UNITS / n)
  for i = 1, n do
    local column, score, deficit = found[i], scores[i], deficits[i]
    local owed, share = 0, 0
    if balanced then
      share = equal or UNITS * score / total
      share = share - share % 1
      owed, given = deficit + share, given + share
    end
    if not most or owed > most or (owed == most and (score > best_score
        or (score == best_score and column < found[best]))) then
      best, most, best_score = i, owed, score
    end
    values[at], values[at + 1], values[at + 2] = column, share, deficit
    at = at + 3
  end
  values[3 * best - 1] = values[3 * best - 1] + UNITS - given
  return best
end

-- One bit in each of some rows of a plane, in one command. Rows of one word are written as they were read.
local function take(key, rows, width, first, count, column)
  if not rows then
    local bits = {}
    for row = first, first + count - 1 do
      local n = #bits
      bits[n + 1], bits[n + 2], bits[n + 3], bits[n + 4] = 'SET', 'u1', row * width * 8 + column, '1'
    end
    call('BITFIELD', key, unpack(bits))
    return
  end
  local words = { unpack_bytes(ROWS_OF_ONE_WORD[count], rows) }
  for row = 1, count do words[row] = bor(words[row], BITS[column]) end
  call('SETRANGE', key, first * 4, pack_bytes(ROWS_OF_ONE_WORD[count], unpack(words, 1, count)))
end

-- The claims of the batch as they are noted: token, entry, token, entry ...
local noted = {}

local function write_claim(claim, idempotency, roster, n, best)
  local width, column, own = roster.width, found[best], claim[17]
  local kept = own and column == own[2]
  local considered = ''
  if not kept then considered = pack_bytes(CONSIDERED[n], unpack(values, 1, 3 * n)) end
  local segments, dates = claim[7], claim[8]
  local date = dates[1]
  for i = 1, #dates do
    local candidate = dates[i]
    if candidate[1] then
      local zone = roster.fields[candidate[1]]
      if band(string.byte(zone, floor(column / 8) + 1), lshift(1, 7 - column % 8)) ~= 0 then date = candidate end
    end
  end
  local count = 0
  for i = 1, #segments do count = count + segments[i][4] end
  -- Noted before any bit is set, though by one command for the batch: of a claim that breaks on its way, and of a
  -- process that dies before it settles, the reconciler finds what it must free.
  local entry = { 'claim', now_ms + ttl_ms, claim[1], claim[6], column, claim[15], count, date[4], width, claim[16] or '',
    considered }
  if own then
    entry[1], entry[4] = 'move', own[1]
    -- A coach that is kept has paid already; another one's booking takes back what the old one's did.
    entry[12], entry[13], entry[14], entry[15], entry[16] = own[2], own[3], own[4], own[5], kept and '' or from_hex(own[6])
  end
  noted[#noted + 1] = claim[6]
  noted[#noted + 1] = cmsgpack.pack(entry)
  for i = 1, #segments do
    local segment = segments[i]
    -- Out of the rows that a move has read its own time was taken.
    local as_read = width == 4 and not own and rows[i][2]
    take(KEYS[segment[2]], as_read, width, segment[3], segment[4], column)
  end
  if not (kept and date[4] == own[5]) then
    local taken = call('BITFIELD', KEYS[date[3]], 'INCRBY', 'u16', column * 16, '1')[1]
    local limit = word_of(limits_read, KEYS[claim[13]], floor(column / 32), LIMITS)[column % 32 + 1]
    if taken >= limit then call('SETBIT', KEYS[date[2]], column, 1) end
  end
  if claim[9] == 'balanced' and not kept then
    for i = 1, n do
      local word = words_owed[i]
      word[found[i] % 32 + 1], word.changed = deficits[i] + values[3 * i - 1], true
    end
    local paying, k = words_owed[best], column % 32 + 1
    paying[k] = paying[k] - UNITS
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
  if not read_rows(claim, roster.width) then reply[1] = 'unknown_day' return end
  local team = field_of(KEYS[claim[2]], roster, claim[5]) or ''
  local n = find_candidates(claim, roster, team)
  if n == 0 then
    reply[1], reply[4], reply[5] = 'taken', roster.revision, roster.freed
    return
  end
  local best = choose(claim[9], n, weigh(claim, n))
  reply[4] = found[best]
  reply[5], reply[6] = write_claim(claim, idempotency, roster, n, best)
  reply[1] = 'claimed'
end

local function write_back()
  if #noted > 0 then call('HSET', pending, unpack(noted)) end
  for key, rate in pairs(rates) do
    if rate.more > 0 then call('INCRBY', key, rate.more) end
  end
  for key, roster in pairs(rosters) do
    if roster.claims > 0 then
      call('HINCRBY', key, 'revision', roster.claims)
      call('HINCRBY', key, 'claims', roster.claims)
    end
  end
  for key, words in pairs(deficits_read) do
    for w, word in pairs(words) do
      if word.changed then call('SETRANGE', key, w * 128, pack_bytes(DEFICITS[1], unpack(word, 1, 32))) end
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
