-- name: commit_bookings
-- Contacts, appointments and their first events of a batch; returns the appointments that took.
-- A row that is not returned lost to a constraint, or its key was used for another write. Rows come in the order of
-- (organization, coach, start) so that two batches wait for each other in one direction only. $25 and $26 are the epoch
-- and the revision each claim was made in, null when it was not made in Redis; a claim that is not to be committed any
-- more is returned as `fenced`.
WITH wish AS MATERIALIZED (
    SELECT *
    FROM unnest(
        $1::integer[], $2::uuid[], $3::integer[], $4::integer[], $5::uuid[], $6::text[], $7::text[],
        $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::date[], $13::text[],
        $14::text[], $15::smallint[], $16::text[], $17::json[], $18::text[], $19::bytea[], $20::timestamptz[],
        $21::text[], $22::text[], $23::bytea[], $24::json[]
    ) AS w (
        org_id, appointment_id, calendar_no, coach_no, contact_id, email, contact_name,
        starts_at, ends_at, occupied_from, occupied_to, local_day, timezone,
        strategy, considered_count, notes, metadata, idempotency_key, fingerprint, created_at,
        actor, correlation_id, considered, data
    )
),
fence AS MATERIALIZED (
    SELECT fenced_claims($1, $2, $4, $12, $25::bigint[], $26::bigint[]) AS appointment_id
),
met AS (
    INSERT INTO contacts (org_id, contact_id, email, name, created_at)
    SELECT DISTINCT ON (org_id, contact_id) org_id, contact_id, email, contact_name, created_at
    FROM wish
    ORDER BY org_id, contact_id
    ON CONFLICT DO NOTHING
),
taken AS (
    INSERT INTO appointments (
        org_id, appointment_id, calendar_no, coach_no, contact_id, contact_name, starts_at, ends_at, occupied,
        local_day, timezone, strategy, considered, notes, metadata, idempotency_key, fingerprint, created_at, updated_at
    )
    SELECT
        org_id, appointment_id, calendar_no, coach_no, contact_id, contact_name, starts_at, ends_at,
        tstzrange(occupied_from, occupied_to), local_day, timezone, strategy, considered_count, notes, metadata,
        idempotency_key, fingerprint, created_at, created_at
    FROM wish AS w
    WHERE appointment_id NOT IN (SELECT f.appointment_id FROM fence AS f)
        -- Looked up row by row. As NOT EXISTS it is a join, and by a plan from when there were few records each commit
        -- read all of them: 1,200 a booking among 18,000. Postgres took 1.5 times as long.
        AND (
            SELECT r.key FROM idempotency_records AS r WHERE r.org_id = w.org_id AND r.key = w.idempotency_key LIMIT 1
        ) IS NULL
    ORDER BY org_id, coach_no, starts_at
    ON CONFLICT DO NOTHING
    RETURNING org_id, appointment_id
),
told AS (
    INSERT INTO events (
        org_id, appointment_id, sequence, type, occurred_at, actor, correlation_id, token, considered, data
    )
    SELECT
        w.org_id, w.appointment_id, 1, 'appointment.created', w.created_at, w.actor, w.correlation_id,
        w.appointment_id, w.considered, w.data
    FROM wish AS w
    JOIN taken AS t ON t.org_id = w.org_id AND t.appointment_id = w.appointment_id
)
SELECT appointment_id, false AS fenced FROM taken
UNION ALL
SELECT appointment_id, true FROM fence;

-- name: find_lost_bookings
-- Why rows did not take: the same id (an earlier attempt took, or a tombstone), or the same idempotency key, of a
-- booking or of another write; `held` says that the other write is still being carried out.
SELECT w.appointment_id AS wanted_id, a.appointment_id, a.status::text AS status, a.fingerprint, e.data, false AS held
FROM unnest($1::integer[], $2::uuid[], $3::text[]) AS w (org_id, appointment_id, idempotency_key)
JOIN appointments AS a
    ON a.org_id = w.org_id
    AND (a.appointment_id = w.appointment_id OR a.idempotency_key = w.idempotency_key)
LEFT JOIN events AS e ON e.org_id = a.org_id AND e.appointment_id = a.appointment_id AND e.sequence = 1
UNION ALL
SELECT w.appointment_id, NULL, NULL, r.fingerprint, NULL, coalesce(r.held_until > now(), false)
FROM unnest($1::integer[], $2::uuid[], $3::text[]) AS w (org_id, appointment_id, idempotency_key)
JOIN idempotency_records AS r ON r.org_id = w.org_id AND r.key = w.idempotency_key;

-- name: take_keys
-- The keys of bookings that this transaction makes without Redis, where other writes begin theirs: who begins one of them
-- waits for this transaction, and this one for whoever is beginning one. What is not returned another write has begun.
INSERT INTO idempotency_records (org_id, key, fingerprint, status, appointment_id)
SELECT w.org_id, w.key, w.fingerprint, 201, w.appointment_id
FROM unnest($1::integer[], $2::text[], $3::bytea[], $4::uuid[]) AS w (org_id, key, fingerprint, appointment_id)
ORDER BY w.org_id, w.key
ON CONFLICT DO NOTHING
RETURNING key;

-- name: answers_of_keys
-- The finished answers of bookings by their idempotency keys, with the place of each among those asked for; of another
-- write's key that it is taken.
SELECT w.place::integer AS place, found.fingerprint, found.data
FROM unnest($1::integer[], $2::text[]) WITH ORDINALITY AS w (org_id, key, place)
CROSS JOIN LATERAL (
    SELECT a.fingerprint, e.data, 0 AS rank
    FROM appointments AS a
    JOIN events AS e ON e.org_id = a.org_id AND e.appointment_id = a.appointment_id AND e.sequence = 1
    WHERE a.org_id = w.org_id AND a.idempotency_key = w.key
    UNION ALL
    SELECT r.fingerprint, NULL, 1
    FROM idempotency_records AS r
    WHERE r.org_id = w.org_id AND r.key = w.key AND (r.status IS NOT NULL OR r.held_until <= now())
    ORDER BY rank
    LIMIT 1
) AS found;

-- name: bury_claim
-- A tombstone under a claim's id, so that an insert of the same id that is still under way loses, or under a move's token,
-- so that the move is fenced.
INSERT INTO appointments (
    org_id, appointment_id, coach_no, starts_at, ends_at, occupied, local_day, status, created_at, updated_at
)
VALUES ($1, $2, $3, $4, $5, tstzrange($4, $5), $6, 'void', now(), now())
ON CONFLICT DO NOTHING
RETURNING appointment_id;
