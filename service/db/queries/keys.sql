-- name: find_key
-- The key with that hash, whatever its organization.
SELECT k.org_id, k.key_id, k.name, k.scopes, k.rate_limit, k.source, k.validated_at, k.revoked_at
FROM api_keys AS k
WHERE k.key_hash = $1
LIMIT 1;

-- name: add_key
INSERT INTO api_keys (org_id, key_id, key_hash, name, scopes, rate_limit, source)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT ON CONSTRAINT api_keys_one_per_hash
DO UPDATE SET scopes = excluded.scopes, rate_limit = excluded.rate_limit, validated_at = now(), revoked_at = NULL
RETURNING key_id;

-- name: revoke_key
UPDATE api_keys SET revoked_at = now() WHERE key_hash = $1 AND source = 'auth-service' AND revoked_at IS NULL;
