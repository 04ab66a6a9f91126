#!lua
-- Say of claims that were `taken` whether the same claims would be so again, without looking at the grid: a claim takes
-- time and frees none, so they are until something is freed. Count each request against its key's rate limit.
--
-- KEYS[1]  string  the epoch the grid belongs to
-- KEYS[n]  the keys the items name by their index: rate counters (string), rosters (hash), idempotency marks (string)
-- ARGV[1]  msgpack [epoch, items]; an item is [rate, roster, version, epoch, freed, first, last]: requests told the same
--          rate     [key, limit, window_ms, times] as in claim_slot.lua, false when they are counted already
--          version, epoch, freed  by which roster and in which epoch the claim was made, and what it was told
--          first, last  the keys from `first` to `last` are their idempotency marks; none when `last` is before `first`
--
-- Reply: one array an item: [outcome, rate_count, rate_reset_ms, revision of the roster, marks]
--   limited  all of them are over the rate limit; nothing else was done
--   suspect  the grid is not of the asker's epoch
--   taken    as they were told; `marks` are the places, from 0, of the marks that are there: of requests in progress or
--            answered, and not to be refused by this
--   freed    the roster is another one, or something may have been freed since: claim
--   broken   the item could not be evaluated

local call = redis.call
local request = cmsgpack.unpack(ARGV[1])
local epoch, items = request[1], request[2]
local current = call('GET', KEYS[1]) == tostring(epoch)

local function count_requests(rate)
  local key, limit, window_ms, times = KEYS[rate[1]], rate[2], rate[3], rate[4]
  local count, reset_ms = call('INCRBY', key, times), window_ms
  local left = count == times and -1 or call('PTTL', key)
  if left < 0 then call('PEXPIRE', key, window_ms) else reset_ms = left end
  return (limit == 0 or count - times < limit), count, reset_ms
end

local function evaluate(item, reply)
  local rate, freed, first, last = item[1], item[5], item[6], item[7]
  if rate then
    local allowed
    allowed, reply[2], reply[3] = count_requests(rate)
    if not allowed then reply[1] = 'limited' return end
  end
  if not current then reply[1] = 'suspect' return end
  local head = call('HMGET', KEYS[item[2]], 'version', 'revision', 'claims')
  local revision = tonumber(head[2] or 0)
  local unchanged = tonumber(head[1]) == item[3] and item[4] == epoch and revision - tonumber(head[3] or 0) == freed
  if not unchanged then reply[1] = 'freed' return end
  reply[1], reply[4] = 'taken', revision
  -- Nearly always there is none of them, which one command says.
  if last < first or call('EXISTS', unpack(KEYS, first, last)) == 0 then return end
  local marks = reply[5]
  for at = first, last do
    if call('EXISTS', KEYS[at]) == 1 then marks[#marks + 1] = at - first end
  end
end

local replies = {}
for i, item in ipairs(items) do
  local reply = { 'broken', 0, 0, 0, {} }
  if not pcall(evaluate, item, reply) then reply[1] = 'broken' end
  replies[i] = reply
end
return replies
