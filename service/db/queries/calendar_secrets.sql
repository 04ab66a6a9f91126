-- name: calendar_secrets_of
-- The secrets that count for an organization, by its name; nothing for one that nobody knows.
SELECT o.org_id, s.secret
FROM organizations AS o
JOIN calendar_secrets AS s ON s.org_id = o.org_id
WHERE o.name = $1 AND (s.expires_at IS NULL OR s.expires_at > now())
ORDER BY s.created_at DESC;

-- name: lock_organization
-- Two who rotate a secret of one organization do it one after the other.
SELECT org_id FROM organizations WHERE org_id = $1 FOR NO KEY UPDATE;

-- name: retire_calendar_secrets
-- The secret before the new one counts for a while yet; what counts no longer goes.
WITH gone AS (
    DELETE FROM calendar_secrets WHERE org_id = $1 AND expires_at IS NOT NULL AND expires_at <= now()
)
UPDATE calendar_secrets SET expires_at = now() + $2::interval
WHERE org_id = $1 AND expires_at IS NULL
RETURNING expires_at;

-- name: forget_calendar_secrets
-- Only the newest secrets are kept, however often one is made.
DELETE FROM calendar_secrets
WHERE org_id = $1 AND secret_id NOT IN (
    SELECT secret_id FROM calendar_secrets WHERE org_id = $1 ORDER BY created_at DESC, secret_id LIMIT $2
);

-- name: add_calendar_secret
-- The current secret of an organization.
INSERT INTO calendar_secrets (org_id, secret_id, secret) VALUES ($1, $2, $3);
