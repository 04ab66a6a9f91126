#!/bin/sh
# The free starts of cal-1 within three days, with how many coaches are free and who. Usage: availability.sh
set -eu
BASE=${BASE:-http://localhost:3000} KEY=${KEY:-test-key-123}

curl -sS -G -H "X-API-Key: $KEY" "$BASE/api/availability" \
    -d calendar_id=cal-1 -d days=3 -d timezone=America/New_York -d group_by=start -d include=coaches |
    python3 -m json.tool
