-- name: undelivered_events
-- Events of an organization that a destination has not heard of, oldest first from where the last look ended, and
-- whether each is old enough to have been heard. Only what nobody can still commit before is looked at.
SELECT e.appointment_id, e.sequence, coalesce(d.attempts, 0) AS attempts, e.occurred_at < $4 AS overdue,
    e.committed_in::text AS committed_in
FROM events AS e
LEFT JOIN deliveries AS d
    ON d.org_id = e.org_id AND d.appointment_id = e.appointment_id AND d.sequence = e.sequence AND d.destination = $2
WHERE e.org_id = $1 AND e.type = ANY ($3::text[])
    AND e.committed_in >= coalesce(
        (SELECT committed_in FROM sweep_positions WHERE org_id = $1 AND destination = $2), '0'::xid8
    )
    AND e.committed_in < pg_snapshot_xmin(pg_current_snapshot())
    AND (d.state IS NULL OR d.state = 'retrying')
ORDER BY e.committed_in, e.appointment_id, e.sequence
LIMIT $5;

-- name: sweep_horizon
-- The oldest transaction that may still commit: what is older is all there.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS horizon;

-- name: keep_sweep_position
INSERT INTO sweep_positions AS p (org_id, destination, committed_in)
VALUES ($1, $2, $3::text::xid8)
ON CONFLICT ON CONSTRAINT sweep_positions_pkey DO UPDATE SET committed_in = excluded.committed_in
WHERE p.committed_in < excluded.committed_in;
