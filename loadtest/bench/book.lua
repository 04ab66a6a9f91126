-- Book random starts, each booking with an idempotency key and a contact of a pool.
-- Arguments, name=value: prefix and organizations (whose keys are key-<prefix>000 on), calendar, first (epoch of the
-- first start), step (seconds between two), starts (how many), contacts, tag (begins the idempotency keys), seed.

local given, starts, contacts, heads = {}, {}, {}, {}
local random, sent, tag, middle = math.random, 0, "", ""

function init(arguments)
  for _, argument in ipairs(arguments) do
    local name, value = argument:match("^(%w+)=(.*)$")
    given[name] = value
  end
  math.randomseed(tonumber(given.seed))
  tag = given.tag
  for n = 0, tonumber(given.starts) - 1 do
    starts[n + 1] = os.date("!%Y-%m-%dT%H:%M:%SZ", tonumber(given.first) + n * tonumber(given.step))
  end
  for n = 0, tonumber(given.contacts) - 1 do
    contacts[n + 1] = string.format('","contact_email":"contact-%05d@example.com"}', n)
  end
  local body = '{"calendar_id":"' .. given.calendar .. '","start_time":"'
  middle = "\r\n\r\n" .. body
  local length = #body + #starts[1] + #contacts[1]
  for n = 0, tonumber(given.organizations) - 1 do
    heads[n + 1] = string.format(
      "POST /api/appointments HTTP/1.1\r\nHost: %s\r\nX-API-Key: key-%s%03d\r\nContent-Type: application/json\r\n"
        .. "Content-Length: %d\r\nIdempotency-Key: ",
      wrk.host, given.prefix, n, length)
  end
end

function request()
  sent = sent + 1
  return heads[random(#heads)] .. tag .. sent .. middle .. starts[random(#starts)] .. contacts[random(#contacts)]
end
