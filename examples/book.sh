#!/bin/sh
# Books the first free start of cal-1, twice with the same key: one appointment, the second answer is a replay.
# Usage: book.sh [E-MAIL]
set -eu
BASE=${BASE:-http://localhost:3000} KEY=${KEY:-test-key-123}
email=${1:-ada@example.com}

start=$(curl -sS -H "X-API-Key: $KEY" "$BASE/api/availability?calendar_id=cal-1" |
    grep -o '"start_time":"[^"]*"' | sed -n 1p | cut -d'"' -f4)

for attempt in first second; do
    echo "$attempt attempt:"
    curl -sS -i -X POST "$BASE/api/appointments" -H "X-API-Key: $KEY" -H 'Content-Type: application/json' \
        -H "Idempotency-Key: book-sh-$$-$start" \
        -d "{\"calendar_id\":\"cal-1\",\"start_time\":\"$start\",\"contact_email\":\"$email\"}"
    echo
done
