#!/bin/sh
# How appointments are spread over the coaches of cal-1 in the coming seven days, and what each earned by its score.
# Usage: distribution.sh
set -eu
BASE=${BASE:-http://localhost:3000} KEY=${KEY:-test-key-123}

curl -sS -H "X-API-Key: $KEY" "$BASE/api/coaches/distribution?calendar_id=cal-1" | python3 -m json.tool
