#!/bin/sh
# Sends what an external calendar sends when the contact confirmed, twice under one identity, and shows what became of
# it once it is worked on. Usage: calendar_event.sh ID
set -eu
BASE=${BASE:-http://localhost:3000} KEY=${KEY:-test-key-123}
id=${1:?which appointment}
event="confirmed-$id"

for _ in first second; do
    curl -sS -X POST "$BASE/api/webhooks/calendar" -H "X-API-Key: $KEY" -H 'Content-Type: application/json' \
        -H "X-Idempotency-Key: $event" -d "{\"event_type\":\"appointment.confirmed\",\"appointment_id\":\"$id\"}"
    echo
done

# It is worked on in the background; most of the time it is done before we ask.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    state=$(curl -sS -H "X-API-Key: $KEY" "$BASE/api/webhooks/events/$event")
    case $state in *'"received"'*) sleep 0.5 ;; *) break ;; esac
done
echo "$state" | python3 -m json.tool
