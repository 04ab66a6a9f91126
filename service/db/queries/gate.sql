-- name: gate_epoch
-- The epoch of claims, and the run id of the Redis server it began with.
SELECT epoch, server FROM gate;

-- name: lock_gate
-- Wait until no claim made in Redis is being committed, and keep others from it until the end of this transaction.
SELECT pg_advisory_xact_lock(hashtext('booking gate'));

-- name: renew_gate
-- End the epoch: from the commit on no claim of it can be committed, and of what was noted before there is nothing left to
-- repair.
WITH moot AS (DELETE FROM grid_repairs)
UPDATE gate SET epoch = epoch + 1, server = $1 RETURNING epoch;

-- name: note_repairs
-- Coach-days in which this transaction changes appointments without the grid.
INSERT INTO grid_repairs (org_id, coach_no, first_day, last_day, owed)
SELECT w.org_id, w.coach_no, w.first_day, w.last_day, true
FROM unnest($1::integer[], $2::integer[], $3::date[], $4::date[]) AS w (org_id, coach_no, first_day, last_day);

-- name: repairs_to_make
-- What nobody has repaired yet, a coach each, the oldest first; of one organization, or of one coach of it.
SELECT
    org_id, coach_no, range_agg(daterange(first_day, last_day, '[]')) AS spans, array_agg(repair_id) AS repair_ids
FROM grid_repairs
WHERE repaired_at IS NULL AND ($1::integer IS NULL OR org_id = $1) AND ($2::integer IS NULL OR coach_no = $2)
GROUP BY org_id, coach_no
ORDER BY min(repair_id)
LIMIT $3;

-- name: columns_to_repair
SELECT DISTINCT coach_no FROM grid_repairs WHERE org_id = $1 AND repaired_at IS NULL;

-- name: repairs_made
-- The grid shows them now: claims made since then may be committed. One note a range of days is enough from here on.
WITH made AS (
    DELETE FROM grid_repairs WHERE org_id = $1 AND repair_id = ANY ($3::bigint[]) AND repaired_at IS NULL RETURNING owed
)
INSERT INTO grid_repairs (org_id, coach_no, first_day, last_day, owed, epoch, revision, repaired_at)
SELECT $1, $2, w.first_day, w.last_day, m.owed, $6, $7, now()
FROM unnest($4::date[], $5::date[]) AS w (first_day, last_day)
CROSS JOIN (SELECT coalesce(bool_or(owed), false) AS owed FROM made HAVING count(*) > 0) AS m;

-- name: repairs_owed
-- Repairs after which nobody has yet looked at what the coaches of the organization are owed.
SELECT org_id, array_agg(repair_id) AS repair_ids
FROM grid_repairs
WHERE owed AND repaired_at IS NOT NULL
GROUP BY org_id;

-- name: owed_looked_at
UPDATE grid_repairs SET owed = false WHERE org_id = $1 AND repair_id = ANY ($2::bigint[]);

-- name: forget_repairs
-- Repairs so old that no claim made before them can be left.
DELETE FROM grid_repairs WHERE repaired_at < now() - $1::interval;

-- name: count_repairs
SELECT count(*)::integer AS waiting FROM grid_repairs WHERE repaired_at IS NULL;
