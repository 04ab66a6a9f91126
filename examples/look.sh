#!/bin/sh
# Shows an appointment, then asks whether it changed since: 304 and no body when it did not. Usage: look.sh ID
set -eu
BASE=${BASE:-http://localhost:3000} KEY=${KEY:-test-key-123}
url="$BASE/api/appointments/${1:?which appointment}"

curl -sS -H "X-API-Key: $KEY" "$url" | python3 -m json.tool
etag=$(curl -sS -i -H "X-API-Key: $KEY" "$url" | tr -d '\r' | sed -n 's/^ETag: //p')
curl -sS -o /dev/null -w '%{http_code} with If-None-Match: '"$etag"'\n' -H "X-API-Key: $KEY" -H "If-None-Match: $etag" "$url"
