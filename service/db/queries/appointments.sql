-- name: get_appointment
-- One appointment of an organization with the ids the outside knows.
SELECT
    a.org_id, a.appointment_id, a.calendar_no, c.calendar_id, a.coach_no, k.coach_id, a.contact_id, p.email,
    a.contact_name, a.starts_at, a.ends_at, lower(a.occupied) AS occupied_from, upper(a.occupied) AS occupied_to,
    a.local_day, a.timezone, a.status::text AS status, a.notes, a.metadata, a.version, a.created_at, a.updated_at,
    a.confirmed_at, a.cancelled_at, a.strategy, a.considered
FROM appointments AS a
JOIN calendars AS c ON c.org_id = a.org_id AND c.calendar_no = a.calendar_no
JOIN coaches AS k ON k.org_id = a.org_id AND k.coach_no = a.coach_no
JOIN contacts AS p ON p.org_id = a.org_id AND p.contact_id = a.contact_id
WHERE a.org_id = $1 AND a.appointment_id = $2 AND a.status <> 'void';

-- name: last_considered
-- Who was considered when the appointment was last assigned.
SELECT considered
FROM events
WHERE org_id = $1 AND appointment_id = $2 AND considered IS NOT NULL
ORDER BY sequence DESC
LIMIT 1;

-- name: change_appointment
-- One change of an appointment and its event, in one statement. The event goes in only where the row still has the
-- version the change was made from; its primary key serialises two changes made from the same version. Under an
-- idempotency key ($25, held by $26) the answer goes in with it, and nothing happens when the hold is lost. A new time that
-- was claimed in Redis, in the epoch $30 at the revision $31, must not be behind the fence of claims, nor its claim given
-- up.
WITH held AS (
    SELECT key FROM idempotency_records
    WHERE org_id = $1 AND key = $25::text AND owner = $26::uuid AND status IS NULL
    FOR UPDATE
),
fence AS MATERIALIZED (
    SELECT fenced_move($1, $22::uuid, $8, $13, $30::bigint, $31::bigint) AS fenced
),
changed AS (
    UPDATE appointments
    SET status = $4::text::appointment_status, version = version + 1, updated_at = $5, confirmed_at = $6,
        cancelled_at = $7, coach_no = $8, starts_at = $9, ends_at = $10, occupied = tstzrange($11, $12),
        local_day = $13, strategy = $14, considered = $15, notes = $16, metadata = $17,
        reminded_for = CASE WHEN $18::text = 'appointment.reminder' THEN reminded_for || starts_at ELSE reminded_for END
    WHERE org_id = $1 AND appointment_id = $2 AND version = $3
        AND ($25::text IS NULL OR EXISTS (SELECT FROM held))
        AND NOT (SELECT f.fenced FROM fence AS f)
    RETURNING org_id, appointment_id, version
),
answered AS (
    UPDATE idempotency_records AS r
    SET status = $27::smallint, headers = $28::json, body = $29::bytea, held_until = NULL, created_at = now()
    FROM changed AS c
    WHERE r.org_id = c.org_id AND r.key = $25 AND r.owner = $26 AND r.status IS NULL
)
INSERT INTO events (
    org_id, appointment_id, sequence, type, occurred_at, actor, correlation_id, reason, token, considered, data
)
SELECT org_id, appointment_id, version, $18, $5, $19, $20, $21, $22, $23, $24
FROM changed
RETURNING sequence;

-- name: event_by_token
-- The event that settled a token.
SELECT e.sequence, e.type
FROM events AS e
WHERE e.org_id = $1 AND e.appointment_id = $2 AND e.token = $3;

-- name: event_at
-- One event, to see whether it is the one we meant to write.
SELECT token, correlation_id, data
FROM events
WHERE org_id = $1 AND appointment_id = $2 AND sequence = $3;

-- name: claim_committed
-- What became of a claim: the status of the row under its id, its idempotency key and its first event.
SELECT a.status::text AS status, a.idempotency_key, a.fingerprint, e.data
FROM appointments AS a
LEFT JOIN events AS e ON e.org_id = a.org_id AND e.appointment_id = a.appointment_id AND e.sequence = 1
WHERE a.org_id = $1 AND a.appointment_id = $2;

-- name: distribution
-- Appointments of each coach of an organization that count on a local date of [$2, $3), and of all of them on each such
-- date; the index knows starts, not dates.
SELECT coach_no, local_day, count(*)::integer AS appointments
FROM appointments
WHERE org_id = $1 AND local_day >= $2 AND local_day < $3
    AND starts_at >= $2::date - interval '2 days' AND starts_at < $3::date + interval '2 days'
    AND status IN ('scheduled', 'completed', 'no_show')
    AND ($4::integer IS NULL OR calendar_no = $4)
GROUP BY GROUPING SETS ((coach_no), (local_day));

-- name: considered_in_window
-- Who was considered for the live appointments that count on a local date of [$2, $3), one after the other, and how
-- many bytes that is of each; those of the balanced rule, and those of the others.
SELECT
    a.strategy = 'balanced' AS balanced, string_agg(int4send(length(e.considered)), '') AS lengths,
    string_agg(e.considered, '') AS considered
FROM appointments AS a
JOIN LATERAL (
    SELECT considered FROM events
    WHERE org_id = a.org_id AND appointment_id = a.appointment_id AND considered IS NOT NULL
    ORDER BY sequence DESC LIMIT 1
) AS e ON true
WHERE a.org_id = $1 AND a.local_day >= $2 AND a.local_day < $3
    AND a.starts_at >= $2::date - interval '2 days' AND a.starts_at < $3::date + interval '2 days'
    AND a.status IN ('scheduled', 'completed', 'no_show')
    AND ($4::integer IS NULL OR a.calendar_no = $4)
GROUP BY balanced;

-- name: list_appointments
-- A page of appointments by start, then id, after ($9, $10); each filter that is null lets everything through.
SELECT
    a.org_id, a.appointment_id, a.calendar_no, c.calendar_id, a.coach_no, k.coach_id, a.contact_id, p.email,
    a.contact_name, a.starts_at, a.ends_at, lower(a.occupied) AS occupied_from, upper(a.occupied) AS occupied_to,
    a.local_day, a.timezone, a.status::text AS status, a.notes, a.metadata, a.version, a.created_at, a.updated_at,
    a.confirmed_at, a.cancelled_at, a.strategy, a.considered
FROM appointments AS a
JOIN calendars AS c ON c.org_id = a.org_id AND c.calendar_no = a.calendar_no
JOIN coaches AS k ON k.org_id = a.org_id AND k.coach_no = a.coach_no
JOIN contacts AS p ON p.org_id = a.org_id AND p.contact_id = a.contact_id
WHERE a.org_id = $1 AND a.status <> 'void'
    AND ($2::integer IS NULL OR a.coach_no = $2)
    AND ($3::integer IS NULL OR a.calendar_no = $3)
    AND ($4::uuid IS NULL OR a.contact_id = $4)
    AND ($5::text IS NULL OR a.status = $5::text::appointment_status)
    AND ($6::timestamptz IS NULL OR a.starts_at >= $6)
    AND ($7::timestamptz IS NULL OR a.starts_at < $7)
    AND ($9::timestamptz IS NULL OR (a.starts_at, a.appointment_id) > ($9, $10::uuid))
ORDER BY a.starts_at, a.appointment_id
LIMIT $8;

-- name: history
-- The events of one appointment, oldest first.
SELECT sequence, type, occurred_at, actor, correlation_id, reason, considered, data
FROM events
WHERE org_id = $1 AND appointment_id = $2
ORDER BY sequence;
