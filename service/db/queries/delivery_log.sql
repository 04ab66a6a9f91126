-- name: list_deliveries
-- Deliveries of at most $5 events, newest appointment first, from ($3, $4, $8) on. An event its destination has not been
-- told of has no row: it is pending. Each event looked at comes back, with a null destination where nothing of it is
-- wanted, so that the reader knows how far the look went.
WITH scanned AS MATERIALIZED (
    SELECT e.appointment_id, e.sequence, e.type, e.occurred_at, e.committed_in
    FROM events AS e
    WHERE e.org_id = $1 AND e.appointment_id >= $2 AND (e.appointment_id, e.sequence) <= ($3::uuid, $4::integer)
    ORDER BY e.appointment_id DESC, e.sequence DESC
    LIMIT $5
)
SELECT
    s.appointment_id, s.sequence, s.type, s.occurred_at, x.destination, x.state, x.attempts, x.replays, x.last_status,
    x.last_error, x.updated_at, x.delivered_at
FROM scanned AS s
LEFT JOIN LATERAL (
    SELECT d.destination, d.state, d.attempts, d.replays, d.last_status, d.last_error, d.updated_at, d.delivered_at
    FROM deliveries AS d
    WHERE d.org_id = $1 AND d.appointment_id = s.appointment_id AND d.sequence = s.sequence
    UNION ALL
    SELECT h.destination, 'pending', 0, 0, NULL, NULL, s.occurred_at, NULL
    FROM unnest($9::text[], $10::text[], $11::text[]) AS h (destination, type, since)
    WHERE h.type = s.type AND (h.since IS NULL OR NOT pg_visible_in_snapshot(s.committed_in, h.since::pg_snapshot))
        AND NOT EXISTS (
            SELECT 1 FROM deliveries AS d
            WHERE d.org_id = $1 AND d.appointment_id = s.appointment_id AND d.sequence = s.sequence
                AND d.destination = h.destination
        )
) AS x
    ON ($6::text IS NULL OR x.state = $6) AND ($7::text IS NULL OR x.destination = $7)
        AND ((s.appointment_id, s.sequence) < ($3, $4) OR x.destination > $8::text)
ORDER BY s.appointment_id DESC, s.sequence DESC, x.destination;

-- name: list_deliveries_in_trouble
-- Deliveries that are dead or being retried, in the order of `list_deliveries`.
SELECT
    d.appointment_id, d.sequence, e.type, e.occurred_at, d.destination, d.state, d.attempts, d.replays, d.last_status,
    d.last_error, d.updated_at, d.delivered_at
FROM deliveries AS d
JOIN events AS e USING (org_id, appointment_id, sequence)
WHERE d.org_id = $1 AND d.state IN ('dead', 'retrying')
    AND d.appointment_id >= $2 AND (d.appointment_id, d.sequence) <= ($3::uuid, $4::integer)
    AND d.state = $6 AND ($7::text IS NULL OR d.destination = $7)
    AND ((d.appointment_id, d.sequence) < ($3, $4) OR d.destination > $8::text)
ORDER BY d.appointment_id DESC, d.sequence DESC, d.destination
LIMIT $5;

-- name: get_delivery
-- One delivery, nothing when the destination need not hear of the event.
SELECT
    e.appointment_id, e.sequence, e.type, e.occurred_at,
    coalesce(d.state, 'pending') AS state, coalesce(d.attempts, 0) AS attempts, coalesce(d.replays, 0) AS replays,
    d.last_status, d.last_error, coalesce(d.updated_at, e.occurred_at) AS updated_at, d.delivered_at
FROM events AS e
LEFT JOIN deliveries AS d ON d.org_id = e.org_id AND d.appointment_id = e.appointment_id
    AND d.sequence = e.sequence AND d.destination = $4
WHERE e.org_id = $1 AND e.appointment_id = $2 AND e.sequence = $3
    AND (d.destination IS NOT NULL OR EXISTS (
        SELECT 1 FROM unnest($5::text[], $6::text[], $7::text[]) AS h (destination, type, since)
        WHERE h.destination = $4 AND h.type = e.type
            AND (h.since IS NULL OR NOT pg_visible_in_snapshot(e.committed_in, h.since::pg_snapshot))
    ));

-- name: delivery_attempts_of
-- The attempts of a delivery, oldest first.
SELECT made_at, replay, attempt, outcome, status, duration_ms, answer
FROM delivery_attempts
WHERE org_id = $1 AND appointment_id = $2 AND sequence = $3 AND destination = $4
ORDER BY replay, made_at;

-- name: replay_delivery
-- Ask for a delivery that has ended to be made again; nothing comes back for one on its way. The worker carries it out.
UPDATE deliveries
SET state = 'pending', attempts = 0, replays = replays + 1, enqueued_at = NULL, updated_at = now(), delivered_at = NULL
WHERE org_id = $1 AND appointment_id = $2 AND sequence = $3 AND destination = $4 AND state IN ('dead', 'delivered')
RETURNING sequence;

-- name: replay_dead_of_destination
-- The same of at most $4 deliveries of a destination that were dead at $3, of events whose types ($5) it hears.
UPDATE deliveries AS d
SET state = 'pending', attempts = 0, replays = replays + 1, enqueued_at = NULL, updated_at = now()
FROM (
    SELECT r.org_id, r.appointment_id, r.sequence, r.destination FROM deliveries AS r
    WHERE r.org_id = $1 AND r.destination = $2 AND r.state = 'dead' AND r.updated_at <= $3
        AND EXISTS (
            SELECT 1 FROM events AS e
            WHERE e.org_id = r.org_id AND e.appointment_id = r.appointment_id AND e.sequence = r.sequence
                AND e.type = ANY ($5::text[])
        )
    ORDER BY r.appointment_id, r.sequence
    LIMIT $4
    FOR UPDATE SKIP LOCKED
) AS w
WHERE d.org_id = w.org_id AND d.appointment_id = w.appointment_id AND d.sequence = w.sequence
    AND d.destination = w.destination
RETURNING d.sequence;

-- name: time_of_the_record
SELECT clock_timestamp() AS now;

-- name: replays_to_enqueue
-- Replayed deliveries that have not ended, and were not put on their way or not for a while: Redis may have lost them.
SELECT org_id, appointment_id, sequence, destination, attempts, replays
FROM deliveries
WHERE replays > 0 AND state IN ('pending', 'retrying')
    AND (enqueued_at IS NULL OR enqueued_at < now() - make_interval(secs => $1))
ORDER BY enqueued_at NULLS FIRST
LIMIT $2;

-- name: replays_enqueued
-- Deliveries that are on their way again, unless another replay was asked for meanwhile.
UPDATE deliveries AS d
SET enqueued_at = now()
FROM unnest($1::integer[], $2::uuid[], $3::integer[], $4::text[], $5::integer[])
    AS w (org_id, appointment_id, sequence, destination, replays)
WHERE d.org_id = w.org_id AND d.appointment_id = w.appointment_id AND d.sequence = w.sequence
    AND d.destination = w.destination AND d.replays = w.replays;
