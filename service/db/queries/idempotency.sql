-- name: begin_key
-- Hold a key ($4: a new owner, and the operation's id unless it has one). Nothing is returned when somebody holds it, it
-- has its answer, or a booking was made with it. Whoever took longer than its hold loses it to the same request.
INSERT INTO idempotency_records AS r (org_id, key, fingerprint, operation, owner, held_until)
SELECT $1, $2, $3, $4, $4, now() + make_interval(secs => $5)
WHERE NOT EXISTS (SELECT FROM appointments AS a WHERE a.org_id = $1 AND a.idempotency_key = $2)
ON CONFLICT ON CONSTRAINT idempotency_records_pkey DO UPDATE
SET owner = excluded.owner, held_until = excluded.held_until
WHERE r.status IS NULL AND r.fingerprint = excluded.fingerprint
    AND (r.owner = excluded.owner OR r.held_until <= now())
RETURNING operation;

-- name: find_idempotency_key
-- What a key stands for; of a booking's key only that it is taken.
SELECT fingerprint, status, headers, body, coalesce(held_until <= now(), true) AS over, 0 AS place
FROM idempotency_records
WHERE org_id = $1 AND key = $2
UNION ALL
SELECT fingerprint, 201, NULL, NULL, true, 1
FROM appointments
WHERE org_id = $1 AND idempotency_key = $2
ORDER BY place
LIMIT 1;

-- name: booked_keys
-- The keys that bookings were made with.
SELECT w.org_id, w.key
FROM unnest($1::integer[], $2::text[]) AS w (org_id, key)
CROSS JOIN LATERAL (
    SELECT FROM appointments AS a WHERE a.org_id = w.org_id AND a.idempotency_key = w.key LIMIT 1
) AS booked;

-- name: complete_key
-- The answer of a key that is still held by the owner; nothing is returned when it is not.
UPDATE idempotency_records
SET status = $4, headers = $5, body = $6, held_until = NULL, created_at = now()
WHERE org_id = $1 AND key = $2 AND owner = $3 AND status IS NULL
RETURNING key;

-- name: key_is_held
SELECT 1 FROM idempotency_records WHERE org_id = $1 AND key = $2 AND owner = $3 AND status IS NULL;

-- name: free_key
-- A refused request leaves its key free for any other.
DELETE FROM idempotency_records WHERE org_id = $1 AND key = $2 AND owner = $3 AND status IS NULL;

-- name: leave_key
-- Of a request whose outcome is not known: the same request may be carried out again at once, another may not.
UPDATE idempotency_records SET held_until = now() WHERE org_id = $1 AND key = $2 AND owner = $3 AND status IS NULL;

-- name: forget_keys
-- At most $2 records older than $1 hours. A booking keeps its key on its row, as long as there is the row.
WITH old AS (
    SELECT org_id, key
    FROM idempotency_records
    WHERE created_at < now() - make_interval(hours => $1) AND (held_until IS NULL OR held_until <= now())
    ORDER BY created_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
DELETE FROM idempotency_records AS r
USING old AS o
WHERE r.org_id = o.org_id AND r.key = o.key
RETURNING r.key;
