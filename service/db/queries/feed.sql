-- name: read_feed
-- Events of an organization after ($2, $3, $4), in the order of their transactions. Only transactions older than every
-- one still open are shown: a lower number may commit later, but none below the oldest open one can. Data only of the
-- wanted types, so that a reader of few types gets on through the others.
SELECT e.appointment_id, e.sequence, e.type, e.occurred_at, e.actor, e.correlation_id, e.reason,
    e.committed_in::text AS committed_in,
    CASE WHEN $6::text[] IS NULL OR e.type = ANY ($6) THEN e.data END AS data
FROM events AS e
WHERE e.org_id = $1
    AND e.committed_in >= $2::text::xid8
    AND e.committed_in < pg_snapshot_xmin(pg_current_snapshot())
    AND (e.committed_in, e.appointment_id, e.sequence) > ($2::text::xid8, $3::uuid, $4::integer)
ORDER BY e.committed_in, e.appointment_id, e.sequence
LIMIT $5;

-- name: read_feed_of_appointment
-- The same, of one appointment.
SELECT e.appointment_id, e.sequence, e.type, e.occurred_at, e.actor, e.correlation_id, e.reason,
    e.committed_in::text AS committed_in,
    CASE WHEN $6::text[] IS NULL OR e.type = ANY ($6) THEN e.data END AS data
FROM events AS e
WHERE e.org_id = $1 AND e.appointment_id = $7
    AND e.committed_in < pg_snapshot_xmin(pg_current_snapshot())
    AND (e.committed_in, e.appointment_id, e.sequence) > ($2::text::xid8, $3::uuid, $4::integer)
ORDER BY e.committed_in, e.appointment_id, e.sequence
LIMIT $5;
