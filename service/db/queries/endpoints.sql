-- name: count_endpoints
SELECT count(*)::integer AS endpoints FROM webhook_endpoints WHERE org_id = $1;

-- name: add_endpoint
INSERT INTO webhook_endpoints (org_id, endpoint_id, url, description) VALUES ($1, $2, $3, $4);

-- name: subscribe_endpoint
-- Types an endpoint hears of from now on; those it hears already stay.
INSERT INTO webhook_subscriptions (org_id, endpoint_id, type)
SELECT $1, $2, unnest($3::text[])
ON CONFLICT DO NOTHING;

-- name: unsubscribe_endpoint
-- Leave only these types.
DELETE FROM webhook_subscriptions WHERE org_id = $1 AND endpoint_id = $2 AND type <> ALL ($3::text[]);

-- name: add_endpoint_secret
-- A new secret that signs from now on; the same one again changes nothing.
INSERT INTO webhook_secrets (org_id, endpoint_id, secret_id, secret) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING;

-- name: retire_endpoint_secrets
-- The secrets in use sign for as long as $3 says, and what does not sign any more is forgotten.
WITH gone AS (
    DELETE FROM webhook_secrets WHERE org_id = $1 AND endpoint_id = $2 AND signs_until <= now()
)
UPDATE webhook_secrets SET signs_until = now() + $3::interval
WHERE org_id = $1 AND endpoint_id = $2 AND signs_until IS NULL;

-- name: forget_endpoint_secrets
-- Only the newest secrets are kept, however often one is made: $3, in the order of `endpoints_to_call`.
DELETE FROM webhook_secrets
WHERE org_id = $1 AND endpoint_id = $2 AND secret_id NOT IN (
    SELECT secret_id FROM webhook_secrets
    WHERE org_id = $1 AND endpoint_id = $2
    ORDER BY signs_until DESC NULLS FIRST, secret_id DESC
    LIMIT $3
);

-- name: list_endpoints
-- Endpoints of an organization by id, behind $2; all of them when $3 is null, else that one.
SELECT
    p.endpoint_id, p.url, p.description, p.state, p.reason, p.paused_at, p.failing_since, p.created_at, p.updated_at,
    ARRAY(
        SELECT s.type FROM webhook_subscriptions AS s
        WHERE s.org_id = p.org_id AND s.endpoint_id = p.endpoint_id ORDER BY s.type
    ) AS event_types
FROM webhook_endpoints AS p
WHERE p.org_id = $1 AND ($2::uuid IS NULL OR p.endpoint_id > $2) AND ($3::uuid IS NULL OR p.endpoint_id = $3)
ORDER BY p.endpoint_id
LIMIT $4;

-- name: lock_endpoint
-- Hold an endpoint for a change of it. Whatever is heard anew after this lies behind what was swept.
UPDATE webhook_endpoints
SET updated_at = clock_timestamp(), swept_to = LEAST(swept_to, pg_snapshot_xmin(pg_current_snapshot()))
WHERE org_id = $1 AND endpoint_id = $2
RETURNING endpoint_id;

-- name: save_endpoint
UPDATE webhook_endpoints SET url = $3, description = $4 WHERE org_id = $1 AND endpoint_id = $2;

-- name: resume_endpoint
-- Whatever waited is looked for at once.
UPDATE webhook_endpoints
SET state = 'active', reason = NULL, paused_at = NULL, failing_since = NULL, sweep_at = now()
WHERE org_id = $1 AND endpoint_id = $2 AND state <> 'active';

-- name: pause_endpoint
UPDATE webhook_endpoints
SET state = $3, reason = $4, paused_at = now(), updated_at = clock_timestamp()
WHERE org_id = $1 AND endpoint_id = $2 AND state = 'active'
RETURNING endpoint_id;

-- name: note_endpoint_failing
-- The first failure begins to count; an endpoint that failed for $3 seconds, and never did not, is paused.
UPDATE webhook_endpoints
SET failing_since = coalesce(failing_since, now()),
    state = CASE WHEN failing_since <= now() - make_interval(secs => $3) THEN 'paused' ELSE state END,
    reason = CASE WHEN failing_since <= now() - make_interval(secs => $3) THEN $4 ELSE reason END,
    paused_at = CASE WHEN failing_since <= now() - make_interval(secs => $3) THEN now() ELSE paused_at END,
    updated_at = CASE WHEN failing_since <= now() - make_interval(secs => $3) THEN clock_timestamp() ELSE updated_at END
WHERE org_id = $1 AND endpoint_id = $2 AND state = 'active'
RETURNING state, failing_since;

-- name: note_endpoint_well
UPDATE webhook_endpoints SET failing_since = NULL
WHERE org_id = $1 AND endpoint_id = $2 AND failing_since IS NOT NULL;

-- name: remove_endpoint
-- Remove an endpoint; what was still to be sent to it ends here. Each of the two kinds has an index of its own: only a
-- replay is pending.
WITH ended AS (
    UPDATE deliveries
    SET state = 'dead', last_error = 'the endpoint was removed', updated_at = now()
    WHERE org_id = $1 AND destination = 'endpoint:' || $2::uuid
        AND (state = 'retrying' OR state = 'pending' AND replays > 0)
)
DELETE FROM webhook_endpoints WHERE org_id = $1 AND endpoint_id = $2;

-- name: endpoints_to_call
-- Endpoints by (organization, id) with the newest secrets that sign now.
SELECT
    p.org_id, p.endpoint_id, p.url, p.state, p.failing_since,
    ARRAY(
        SELECT s.type FROM webhook_subscriptions AS s WHERE s.org_id = p.org_id AND s.endpoint_id = p.endpoint_id
    ) AS event_types,
    ARRAY(
        SELECT k.secret FROM webhook_secrets AS k
        WHERE k.org_id = p.org_id AND k.endpoint_id = p.endpoint_id
            AND (k.signs_until IS NULL OR k.signs_until > now())
        ORDER BY k.signs_until DESC NULLS FIRST, k.secret_id DESC
        LIMIT 5
    ) AS secrets
FROM unnest($1::integer[], $2::uuid[]) AS w (org_id, endpoint_id)
JOIN webhook_endpoints AS p USING (org_id, endpoint_id);

-- name: endpoints_to_tell
-- For each committed event that is asked for, the active endpoints that must still hear of it; one row with none for an
-- event that nobody must hear of.
SELECT v.org_id, v.appointment_id, v.sequence, t.endpoint_id
FROM unnest($1::integer[], $2::uuid[], $3::integer[]) AS w (org_id, appointment_id, sequence)
JOIN events AS v USING (org_id, appointment_id, sequence)
LEFT JOIN LATERAL (
    SELECT p.endpoint_id
    FROM webhook_endpoints AS p
    JOIN webhook_subscriptions AS s ON s.org_id = p.org_id AND s.endpoint_id = p.endpoint_id AND s.type = v.type
    WHERE p.org_id = v.org_id AND p.state = 'active' AND NOT pg_visible_in_snapshot(v.committed_in, s.since)
        AND NOT EXISTS (
            SELECT 1 FROM deliveries AS d
            WHERE d.org_id = v.org_id AND d.appointment_id = v.appointment_id AND d.sequence = v.sequence
                AND d.destination = 'endpoint:' || p.endpoint_id AND d.state IN ('delivered', 'dead')
        )
) AS t ON true
ORDER BY v.org_id, v.appointment_id, v.sequence, t.endpoint_id;

-- name: endpoints_to_sweep
-- Take active endpoints whose time to be looked at has come; another worker does not get them before $1 is over, or a
-- second for one that was changed lately: what waited while it was paused shall not wait longer.
UPDATE webhook_endpoints AS p
SET sweep_at = now() + CASE WHEN p.updated_at > now() - $1::interval THEN interval '1 second' ELSE $1::interval END
FROM (
    SELECT org_id, endpoint_id FROM webhook_endpoints
    WHERE state = 'active' AND sweep_at <= now()
    ORDER BY sweep_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
) AS t
WHERE p.org_id = t.org_id AND p.endpoint_id = t.endpoint_id
RETURNING p.org_id, p.endpoint_id, p.updated_at, pg_snapshot_xmin(pg_current_snapshot())::text AS horizon;

-- name: undelivered_to_endpoint
-- Events an endpoint must hear of and has not, in the order of their transactions. `young`: it
-- happened less than $3 ago (a second for an endpoint that was changed lately) and may not have been announced yet.
-- Every event that is there to be seen lies before the end of the snapshot: with both ends the range is taken for the
-- short one that it is, with one of them each look read all events there are. Deliveries are looked up row by row.
SELECT
    v.appointment_id, v.sequence, v.committed_in::text AS committed_in, coalesce(d.attempts, 0) AS attempts,
    coalesce(d.updated_at, v.occurred_at)
        > now() - CASE WHEN p.updated_at > now() - $3::interval THEN interval '1 second' ELSE $3::interval END AS young
FROM webhook_endpoints AS p
JOIN webhook_subscriptions AS s ON s.org_id = p.org_id AND s.endpoint_id = p.endpoint_id
JOIN events AS v ON v.org_id = p.org_id AND v.type = s.type
LEFT JOIN LATERAL (
    SELECT state, attempts, updated_at FROM deliveries
    WHERE org_id = v.org_id AND appointment_id = v.appointment_id AND sequence = v.sequence
        AND destination = 'endpoint:' || p.endpoint_id
    LIMIT 1
) AS d ON true
WHERE p.org_id = $1 AND p.endpoint_id = $2
    AND v.committed_in >= (SELECT swept_to FROM webhook_endpoints WHERE org_id = $1 AND endpoint_id = $2)
    AND v.committed_in < pg_snapshot_xmax(pg_current_snapshot())
    AND NOT pg_visible_in_snapshot(v.committed_in, s.since)
    AND (d.state IS NULL OR d.state NOT IN ('delivered', 'dead'))
ORDER BY v.committed_in, v.appointment_id, v.sequence
LIMIT $4;

-- name: save_sweep
-- How far an endpoint was swept, unless it was changed meanwhile.
UPDATE webhook_endpoints SET swept_to = $3::text::xid8
WHERE org_id = $1 AND endpoint_id = $2 AND updated_at = $4;

-- name: endpoints_by_state
SELECT state, count(*)::integer AS endpoints FROM webhook_endpoints GROUP BY state;

-- name: endpoint_subscriptions
-- What the endpoints of an organization hear of, each type from when on.
SELECT endpoint_id, type, since::text AS since FROM webhook_subscriptions WHERE org_id = $1 ORDER BY endpoint_id, type;
