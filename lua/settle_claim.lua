#!lua
-- Settle a batch of committed changes: drop what was pending, announce the event, keep the finished answer.
--
-- KEYS[1]  hash    pending claims and releases, by token
-- KEYS[2]  hash    coach-days under repair
-- KEYS[n]  the keys the items name by their index: destination streams, the sets of events on their way in them,
--          idempotency marks and the idempotency stream
-- ARGV[1]  msgpack [answer_ttl_ms, items]; an item is [token, event, streams, answer]
--          token   of the claim (or of the noted release whose change was refused), false when nothing is pending
--          event   'org appointment_id sequence', false when there is nothing to announce
--          streams [[stream, on their way] ...] of the destinations that must hear of the event
--          answer  [mark, stream, key_name, org, fingerprint, status, appointment_id, value], false when the request had
--                  no key; value is what the mark holds from now on, see `look_up` in claim_slot.lua
--
-- Reply: one outcome an item
--   settled   the token was pending and is not any more
--   absent    nothing was pending under the token (it was settled before); the announcement is made all the same,
--             unless the event is on its way already
--   broken    the item could not be evaluated

local call = redis.call
local pending, repairs = KEYS[1], KEYS[2]
local request = cmsgpack.unpack(ARGV[1])
local ttl_ms, items = request[1], request[2]
local under_repair = call('HLEN', repairs) > 0

-- A repair that read Postgres before this commit and writes after it would forget the appointment: tell it.
local function disturb(entry)
  local org, column, start, count, local_day = entry[3], entry[5], entry[6], entry[7], entry[8]
  local days = { [local_day] = true }
  for day = math.floor(start / 288), math.floor((start + count - 1) / 288) do days[day] = true end
  for day in pairs(days) do
    call('HDEL', repairs, org .. ':' .. day .. ':' .. column, org .. ':' .. day .. ':*')
  end
end

-- What is to be announced, by stream, and the place of its item: of all items together, in fewer commands.
local heard = {}

local function settle(item, place)
  local token, event, streams, answer = item[1], item[2], item[3], item[4]
  local outcome = 'absent'
  if token then
    if under_repair then
      local entry = call('HGET', pending, token)
      if entry then disturb(cmsgpack.unpack(entry)) end
    end
    if call('HDEL', pending, token) == 1 then outcome = 'settled' end
  end
  if event then
    for _, to in ipairs(streams) do
      local of_stream = heard[to[1]]
      if not of_stream then
        of_stream = { way = to[2], events = {}, places = {} }
        heard[to[1]] = of_stream
      end
      local n = #of_stream.events + 1
      of_stream.events[n], of_stream.places[n] = event, place
    end
  end
  if answer then
    call('SET', KEYS[answer[1]], answer[8], 'PX', ttl_ms)
    call('XADD', KEYS[answer[2]], '*', 'key', answer[3], 'org', answer[4], 'fingerprint', answer[5],
      'status', answer[6], 'appointment_id', answer[7])
  end
  return outcome
end

-- Each event once, and not while it is on its way.
local function announce(stream, of_stream)
  local way, events, fresh = KEYS[of_stream.way], of_stream.events, {}
  local on_its_way = call('SMISMEMBER', way, unpack(events))
  local met = {}
  for i, event in ipairs(events) do
    if on_its_way[i] == 0 and not met[event] then
      met[event], fresh[#fresh + 1] = true, event
    end
  end
  if #fresh == 0 then return end
  call('SADD', way, unpack(fresh))
  for _, event in ipairs(fresh) do call('XADD', KEYS[stream], '*', 'event', event, 'attempt', '1') end
end

local outcomes = {}
for i, item in ipairs(items) do
  local well, outcome = pcall(settle, item, i)
  outcomes[i] = well and outcome or 'broken'
end
for stream, of_stream in pairs(heard) do
  if not pcall(announce, stream, of_stream) then
    for _, place in ipairs(of_stream.places) do outcomes[place] = 'broken' end
  end
end
return outcomes
