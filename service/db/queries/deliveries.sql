-- name: load_events
-- Committed events by (organization, appointment, sequence), and whether an earlier event of the same appointment is
-- still to be delivered to the destination: one that the sweeper passed by never is. An endpoint ($6) hears of what was
-- committed after it subscribed. A replay is `outdated` where the destination was to hear of something later too.
SELECT
    e.org_id, e.appointment_id, e.sequence, e.type, e.occurred_at, e.actor, e.correlation_id, e.reason, e.data,
    d.state AS delivery_state, d.last_error AS delivery_error, coalesce(d.attempts, 0) AS attempts,
    coalesce(d.replays, 0) AS replays, d.reference AS own_reference,
    b.sequence AS earlier_sequence, b.reference AS earlier_reference, b.coach_id AS earlier_coach_id,
    coalesce(d.replays, 0) > 0 AND EXISTS (
        SELECT 1 FROM events AS n
        WHERE n.org_id = e.org_id AND n.appointment_id = e.appointment_id AND n.sequence > e.sequence
            AND n.type = ANY ($5::text[])
    ) AS outdated,
    EXISTS (
        SELECT 1 FROM events AS p
        WHERE p.org_id = e.org_id AND p.appointment_id = e.appointment_id AND p.sequence < e.sequence
            AND p.type = ANY ($5::text[])
            AND ($6::uuid IS NULL OR EXISTS (
                SELECT 1 FROM webhook_subscriptions AS s
                WHERE s.org_id = p.org_id AND s.endpoint_id = $6 AND s.type = p.type
                    AND NOT pg_visible_in_snapshot(p.committed_in, s.since)
            ))
            AND NOT EXISTS (
                SELECT 1 FROM deliveries AS pd
                WHERE pd.org_id = p.org_id AND pd.appointment_id = p.appointment_id AND pd.sequence = p.sequence
                    AND pd.destination = $4 AND pd.state IN ('delivered', 'dead')
            )
            AND (
                p.committed_in >= coalesce(
                    (SELECT committed_in FROM sweep_positions WHERE org_id = p.org_id AND destination = $4), '0'::xid8
                )
                OR EXISTS (
                    SELECT 1 FROM deliveries AS pd
                    WHERE pd.org_id = p.org_id AND pd.appointment_id = p.appointment_id AND pd.sequence = p.sequence
                        AND pd.destination = $4
                )
            )
    ) AS must_wait
FROM unnest($1::integer[], $2::uuid[], $3::integer[]) AS w (org_id, appointment_id, sequence)
JOIN events AS e USING (org_id, appointment_id, sequence)
LEFT JOIN deliveries AS d ON d.org_id = e.org_id AND d.appointment_id = e.appointment_id
    AND d.sequence = e.sequence AND d.destination = $4
LEFT JOIN LATERAL (
    SELECT r.sequence, r.reference, re.data ->> 'coach_id' AS coach_id
    FROM deliveries AS r
    JOIN events AS re USING (org_id, appointment_id, sequence)
    WHERE r.org_id = e.org_id AND r.appointment_id = e.appointment_id AND r.sequence < e.sequence
        AND r.destination = $4 AND r.reference IS NOT NULL
    ORDER BY r.sequence DESC LIMIT 1
) AS b ON true;

-- name: record_deliveries
-- Where deliveries stand, and the attempts that led there; a delivered one stays delivered, and an attempt from before
-- a replay does not conclude it. What the receiver called it is kept even of those, for nobody else can say it.
WITH tried AS (
    INSERT INTO delivery_attempts (
        org_id, appointment_id, sequence, destination, made_at, replay, attempt, outcome, status, duration_ms, answer
    )
    SELECT * FROM unnest(
        $11::integer[], $12::uuid[], $13::integer[], $14::text[], $15::timestamptz[], $16::integer[], $17::integer[],
        $18::text[], $19::smallint[], $20::integer[], $21::text[]
    )
    ON CONFLICT DO NOTHING
)
INSERT INTO deliveries AS d (
    org_id, appointment_id, sequence, destination, state, attempts, last_status, last_error, reference, replays,
    updated_at, delivered_at
)
SELECT org_id, appointment_id, sequence, destination, state, attempts, last_status, last_error, reference, replays,
    now(), CASE WHEN state = 'delivered' THEN now() END
FROM unnest(
    $1::integer[], $2::uuid[], $3::integer[], $4::text[], $5::text[], $6::integer[], $7::smallint[], $8::text[],
    $9::text[], $10::integer[]
) AS w (org_id, appointment_id, sequence, destination, state, attempts, last_status, last_error, reference, replays)
ORDER BY org_id, appointment_id, sequence, destination
ON CONFLICT ON CONSTRAINT deliveries_pkey DO UPDATE
SET reference = coalesce(excluded.reference, d.reference),
    (state, attempts, last_status, last_error, updated_at, delivered_at) = (
        SELECT excluded.state, excluded.attempts, excluded.last_status, excluded.last_error, now(),
            excluded.delivered_at
        WHERE d.state <> 'delivered' AND d.replays = excluded.replays
        UNION ALL
        SELECT d.state, d.attempts, d.last_status, d.last_error, d.updated_at, d.delivered_at
        WHERE d.state = 'delivered' OR d.replays <> excluded.replays
    )
WHERE (d.state <> 'delivered' AND d.replays = excluded.replays)
    OR (d.reference IS NULL AND excluded.reference IS NOT NULL);

-- name: note_release
-- The block $5 that delivery ($1, $2, $3) to $4 made is released: it has no reference any more, unless another attempt
-- made another block meanwhile. Whoever has the time now, and was told that it is blocked already ($6: after so many
-- attempts that is believed), is to be told of anew, as by a replay: it was this block, and now there is none. $7 are
-- the types that are told.
WITH released AS (
    UPDATE deliveries SET reference = NULL
    WHERE org_id = $1 AND appointment_id = $2 AND sequence = $3 AND destination = $4 AND reference = $5
),
freed AS (
    SELECT
        c.coach_no, (e.data ->> 'start_time')::timestamptz AS starts_at,
        (e.data ->> 'end_time')::timestamptz AS ends_at
    FROM events AS e
    JOIN coaches AS c ON c.org_id = e.org_id AND c.coach_id = e.data ->> 'coach_id'
    WHERE e.org_id = $1 AND e.appointment_id = $2 AND e.sequence = $3
)
UPDATE deliveries AS d
SET state = 'pending', attempts = 0, replays = replays + 1, enqueued_at = NULL, updated_at = now(), delivered_at = NULL
FROM freed AS f
JOIN appointments AS a ON a.org_id = $1 AND a.coach_no = f.coach_no
    AND a.status IN ('scheduled', 'completed', 'no_show') AND a.occupied && tstzrange(f.starts_at, f.ends_at)
    AND a.starts_at < f.ends_at AND a.ends_at > f.starts_at AND a.appointment_id <> $2
CROSS JOIN LATERAL (
    SELECT e.sequence FROM events AS e
    WHERE e.org_id = $1 AND e.appointment_id = a.appointment_id AND e.type = ANY ($7::text[])
    ORDER BY e.sequence DESC LIMIT 1
) AS latest
WHERE d.org_id = $1 AND d.appointment_id = a.appointment_id AND d.sequence = latest.sequence AND d.destination = $4
    AND d.reference IS NULL AND (d.state = 'delivered' OR (d.state = 'retrying' AND d.attempts >= $6 - 1))
RETURNING d.appointment_id;

-- name: end_deliveries
-- Deliveries on their way that nobody is to hear of any more.
UPDATE deliveries AS d
SET state = 'dead', last_error = $5, updated_at = now()
FROM unnest($1::integer[], $2::uuid[], $3::integer[]) AS w (org_id, appointment_id, sequence)
WHERE d.org_id = w.org_id AND d.appointment_id = w.appointment_id AND d.sequence = w.sequence
    AND d.destination = $4 AND d.state IN ('pending', 'retrying');

-- name: save_answers
-- The keys of the idempotency stream. The answer is the appointment's first event, see answers_of_keys.
INSERT INTO idempotency_records (org_id, key, fingerprint, status, appointment_id)
SELECT * FROM unnest($1::integer[], $2::text[], $3::bytea[], $4::smallint[], $5::uuid[])
ON CONFLICT DO NOTHING;

-- name: accept_webhook_event
-- One row for each identity of an incoming event; nothing is returned for a repeat.
INSERT INTO webhook_events (org_id, event_id, event_type, body, correlation_id, concerns)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
RETURNING event_id;

-- name: get_webhook_event
-- One event; how many earlier ones about the same appointment or coach are still to be worked on, as far as $3, and
-- whether one of them is being tried again.
SELECT
    e.org_id, e.event_id, e.event_type, e.body, e.correlation_id, e.state, e.attempts, e.error, e.replays,
    b.ahead, b.held_up
FROM webhook_events AS e
CROSS JOIN LATERAL (
    SELECT count(*)::integer AS ahead, coalesce(bool_or(f.state = 'retrying'), false) AS held_up
    FROM (
        SELECT p.state FROM webhook_events AS p
        WHERE p.org_id = e.org_id AND p.concerns = e.concerns AND p.arrival < e.arrival
            AND p.state IN ('received', 'retrying')
        ORDER BY p.arrival
        LIMIT $3
    ) AS f
) AS b
WHERE e.org_id = $1 AND e.event_id = $2;

-- name: mark_webhook_event
-- Where processing stands, by an attempt that belongs to replay $6: one asked for meanwhile is not written over.
UPDATE webhook_events
SET state = $3, attempts = $4, error = $5, processed_at = CASE WHEN $3 = 'processed' THEN now() END
WHERE org_id = $1 AND event_id = $2 AND state <> 'processed' AND replays = $6;

-- name: unfinished_webhook_events
-- Events accepted but not finished for a while, in their order: their stream entry may have been lost.
SELECT org_id, event_id FROM webhook_events
WHERE org_id = $1 AND state IN ('received', 'retrying') AND received_at < $2
ORDER BY arrival NULLS FIRST
LIMIT $3;

-- name: coaches_to_sync
-- At most $3 coaches whose external calendar is fetched, behind column $2.
SELECT coach_no, coach_id FROM coaches WHERE org_id = $1 AND active AND coach_no > $2 ORDER BY coach_no LIMIT $3;

-- name: replace_external_busy
-- What a coach's external calendar says of [$3, $4) now; returns whether anything changed.
WITH wanted AS (
    SELECT * FROM unnest($5::timestamptz[], $6::timestamptz[]) AS w (starts_at, ends_at)
),
gone AS (
    DELETE FROM external_busy AS b
    WHERE b.org_id = $1 AND b.coach_no = $2 AND b.starts_at < $4 AND b.ends_at > $3
        AND NOT EXISTS (SELECT 1 FROM wanted AS w WHERE w.starts_at = b.starts_at AND w.ends_at = b.ends_at)
    RETURNING starts_at, ends_at
),
come AS (
    INSERT INTO external_busy (org_id, coach_no, starts_at, ends_at)
    SELECT $1, $2, starts_at, ends_at FROM wanted AS w
    WHERE NOT EXISTS (
        SELECT 1 FROM external_busy AS b
        WHERE b.org_id = $1 AND b.coach_no = $2 AND b.starts_at = w.starts_at AND b.ends_at = w.ends_at
    )
    RETURNING starts_at, ends_at
)
SELECT starts_at, ends_at FROM gone UNION ALL SELECT starts_at, ends_at FROM come;

-- name: own_appointments_of_coach
-- Live appointments of a coach inside [$3, $4): the external calendar shows them as busy because we put them there.
SELECT starts_at, ends_at FROM appointments
WHERE org_id = $1 AND coach_no = $2 AND status IN ('scheduled', 'completed', 'no_show')
    AND occupied && tstzrange($3, $4);
