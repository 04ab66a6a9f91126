-- name: add_time_off
-- A period under its id; one that is there already stays as it is and is returned.
INSERT INTO time_off (org_id, coach_no, time_off_id, starts_at, ends_at, reason, source)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (org_id, coach_no, time_off_id) DO UPDATE SET source = time_off.source
RETURNING time_off_id, coach_no, starts_at, ends_at, reason, source, created_at;

-- name: get_time_off
SELECT time_off_id, coach_no, starts_at, ends_at, reason, source, created_at
FROM time_off
WHERE org_id = $1 AND coach_no = $2 AND time_off_id = $3;

-- name: list_time_off
-- A page of a coach's periods by start, then id, after ($6, $7); those that touch [$3, $4), null lets everything through.
SELECT time_off_id, coach_no, starts_at, ends_at, reason, source, created_at
FROM time_off
WHERE org_id = $1 AND coach_no = $2
    AND ($3::timestamptz IS NULL OR ends_at > $3)
    AND ($4::timestamptz IS NULL OR starts_at < $4)
    AND ($6::timestamptz IS NULL OR (starts_at, time_off_id) > ($6, $7::uuid))
ORDER BY starts_at, time_off_id
LIMIT $5;

-- name: remove_time_off
DELETE FROM time_off WHERE org_id = $1 AND coach_no = $2 AND time_off_id = $3 RETURNING time_off_id;

-- name: calendar_time_off
-- The external calendar's periods of a coach that touch [$3, $4), held until they are cut.
SELECT time_off_id, coach_no, starts_at, ends_at, reason, source, created_at
FROM time_off
WHERE org_id = $1 AND coach_no = $2 AND source = 'calendar' AND starts_at < $4 AND ends_at > $3
ORDER BY time_off_id
FOR UPDATE;

-- name: cut_time_off
-- Another beginning and end of a period.
UPDATE time_off SET starts_at = $4, ends_at = $5 WHERE org_id = $1 AND coach_no = $2 AND time_off_id = $3;

-- name: appointments_inside
-- Appointments of a coach that are to take place in [$3, $4) at least in part and are not over at $5; none is longer
-- than a day, which bounds the search.
SELECT appointment_id
FROM appointments
WHERE org_id = $1 AND coach_no = $2 AND status = 'scheduled'
    AND starts_at < $4 AND starts_at > greatest($3::timestamptz, $5::timestamptz) - interval '1 day'
    AND ends_at > greatest($3::timestamptz, $5::timestamptz)
ORDER BY starts_at, appointment_id;
