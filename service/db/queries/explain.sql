-- name: hindrances
-- What keeps coaches from a slot, as (coach_no, word), all of one moment: $2 the coaches, $3 the local date of the
-- start for each of them, [$4, $5) the slot, [$6, $7) the slot with its buffers.
WITH near AS (
    SELECT coach_no, starts_at < $5 AND ends_at > $4 AS meets
    FROM appointments
    WHERE org_id = $1 AND coach_no = ANY ($2::integer[])
        AND status IN ('scheduled', 'completed', 'no_show')
        AND occupied && tstzrange($6, $7)
)
SELECT coach_no, 'time_off' AS hindrance
FROM time_off
WHERE org_id = $1 AND coach_no = ANY ($2) AND starts_at < $5 AND ends_at > $4
UNION
SELECT coach_no, 'external_busy'
FROM external_busy
WHERE org_id = $1 AND coach_no = ANY ($2) AND starts_at < $5 AND ends_at > $4
UNION
SELECT k.coach_no, 'daily_limit'
FROM unnest($2, $3::date[]) AS w (coach_no, local_day)
JOIN coaches AS k ON k.org_id = $1 AND k.coach_no = w.coach_no
WHERE k.max_daily_appointments <= (
    SELECT count(*)
    FROM appointments AS a
    WHERE a.org_id = $1 AND a.coach_no = w.coach_no AND a.local_day = w.local_day
        AND a.status IN ('scheduled', 'completed', 'no_show')
        AND a.starts_at >= w.local_day - interval '2 days' AND a.starts_at < w.local_day + interval '3 days'
)
UNION
SELECT coach_no, CASE WHEN meets THEN 'appointment' ELSE 'buffer' END
FROM near;
