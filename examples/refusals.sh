#!/bin/sh
# What a refusal looks like: always problem+json with a code, a sentence and a correlation id. Usage: refusals.sh
set -eu
BASE=${BASE:-http://localhost:3000} KEY=${KEY:-test-key-123}

refused() {
    echo "$1:"
    shift
    curl -sS "$@" | python3 -m json.tool
}

refused 'no key' "$BASE/api/availability"
refused 'an unknown parameter' -H "X-API-Key: $KEY" "$BASE/api/availability?colour=red"
refused 'an unknown id' -H "X-API-Key: $KEY" "$BASE/api/appointments/00000000-0000-0000-0000-000000000000"
refused 'a start in the past and off the grid' -X POST "$BASE/api/appointments" -H "X-API-Key: $KEY" \
    -H 'Content-Type: application/json' \
    -d '{"calendar_id":"cal-1","start_time":"2020-01-01T10:07:00Z","contact_email":"ada@example.com"}'
refused 'not JSON by its own account' -X POST "$BASE/api/appointments" -H "X-API-Key: $KEY" \
    -H 'Content-Type: text/plain' -d 'tomorrow at ten, please'
