#!/bin/sh
# Cancels an appointment, twice: the second answer is the appointment as it is. Usage: cancel.sh ID [REASON]
set -eu
BASE=${BASE:-http://localhost:3000} KEY=${KEY:-test-key-123}
id=${1:?which appointment} reason=${2:-no longer needed}

for _ in first second; do
    curl -sS -X POST "$BASE/api/appointments/$id/cancel" -H "X-API-Key: $KEY" -H 'Content-Type: application/json' \
        -d "{\"reason\":\"$reason\"}" | python3 -m json.tool
done
