-- name: organization_by_name
SELECT org_id FROM organizations WHERE name = $1;

-- name: all_organizations
SELECT org_id, name FROM organizations ORDER BY org_id;

-- name: missing_migrations
-- Which of these migrations were not applied.
SELECT unnest($1::integer[]) AS number EXCEPT SELECT number FROM schema_migrations;

-- name: takes_writes
-- Whether this is a server that can be written to, and not a standby; of no table, so that it is known without any.
SELECT current_setting('transaction_read_only') = 'off' AS takes_writes;

-- name: roster_head
-- Version of an organization's roster, how many columns it has, and whether anybody registered an endpoint.
SELECT
    o.name, o.roster_version, coalesce(max(k.coach_no) + 1, 0) AS columns,
    EXISTS (SELECT 1 FROM webhook_endpoints AS p WHERE p.org_id = o.org_id) AS has_endpoints
FROM organizations AS o
LEFT JOIN coaches AS k ON k.org_id = o.org_id
WHERE o.org_id = $1
GROUP BY o.org_id;

-- name: roster_version
SELECT roster_version FROM organizations WHERE org_id = $1;

-- name: roster_coaches
SELECT coach_no, coach_id, name, email, specialty, timezone, score, max_daily_appointments, active
FROM coaches
WHERE org_id = $1
ORDER BY coach_no;

-- name: roster_calendars
SELECT
    c.calendar_no, c.calendar_id, c.name, c.slot_duration, c.slot_interval, c.max_duration, c.buffer_before,
    c.buffer_after, c.min_notice_minutes, c.max_days_ahead, c.assignment,
    coalesce(
        array_agg(t.coach_no ORDER BY t.coach_no) FILTER (WHERE k.active), '{}'
    )::integer[] AS team
FROM calendars AS c
LEFT JOIN calendar_coaches AS t ON t.org_id = c.org_id AND t.calendar_no = c.calendar_no
LEFT JOIN coaches AS k ON k.org_id = t.org_id AND k.coach_no = t.coach_no
WHERE c.org_id = $1
GROUP BY c.org_id, c.calendar_no
ORDER BY c.calendar_no;

-- name: bump_roster_version
UPDATE organizations SET roster_version = roster_version + 1 WHERE org_id = $1 RETURNING roster_version;

-- name: weekly_windows
-- Local hours of the wanted coaches (all of the organization when $2 is null).
SELECT coach_no, weekday, start_minute, end_minute
FROM weekly_windows
WHERE org_id = $1 AND ($2::integer[] IS NULL OR coach_no = ANY ($2))
ORDER BY coach_no, weekday, start_minute;

-- name: schedule_overrides
SELECT coach_no, local_date, windows
FROM schedule_overrides
WHERE org_id = $1 AND ($2::integer[] IS NULL OR coach_no = ANY ($2)) AND local_date BETWEEN $3 AND $4;

-- name: closed_periods
-- Times at which coaches cannot be booked although they work: busy elsewhere, or away.
SELECT coach_no, starts_at, ends_at
FROM external_busy
WHERE org_id = $1 AND ($2::integer[] IS NULL OR coach_no = ANY ($2)) AND starts_at < $4 AND ends_at > $3
UNION ALL
SELECT coach_no, starts_at, ends_at
FROM time_off
WHERE org_id = $1 AND ($2::integer[] IS NULL OR coach_no = ANY ($2)) AND starts_at < $4 AND ends_at > $3;

-- name: live_placements
-- Live appointments whose occupied time touches [$3, $4), for the occupied planes.
SELECT coach_no, appointment_id, lower(occupied) AS occupied_from, upper(occupied) AS occupied_to
FROM appointments
WHERE org_id = $1 AND ($2::integer[] IS NULL OR coach_no = ANY ($2))
    AND status IN ('scheduled', 'completed', 'no_show')
    AND occupied && tstzrange($3, $4);

-- name: recorded_changes
-- What the record says of changes that are pending in Redis: whether each is committed, and where its appointment is live.
SELECT
    w.token, a.coach_no, lower(a.occupied) AS occupied_from, upper(a.occupied) AS occupied_to,
    EXISTS (
        SELECT FROM events AS e
        WHERE e.org_id = $1 AND e.appointment_id = w.appointment_id AND e.token = w.token
    ) AS committed
FROM unnest($2::uuid[], $3::uuid[]) AS w (token, appointment_id)
LEFT JOIN appointments AS a
    ON a.org_id = $1 AND a.appointment_id = w.appointment_id AND a.status IN ('scheduled', 'completed', 'no_show');

-- name: live_counts
-- Live appointments by coach on one local date, with the ids they are known by.
SELECT coach_no, appointment_id, lower(occupied) AS occupied_from, upper(occupied) AS occupied_to
FROM appointments
WHERE org_id = $1 AND ($2::integer[] IS NULL OR coach_no = ANY ($2))
    AND status IN ('scheduled', 'completed', 'no_show')
    AND local_day = $3
    AND starts_at >= $3::date - interval '2 days' AND starts_at < $3::date + interval '3 days';

-- name: has_many_live
-- Whether an organization has more than $2 live appointments.
SELECT count(*) > $2::integer AS many
FROM (
    SELECT FROM appointments WHERE org_id = $1 AND status IN ('scheduled', 'completed', 'no_show') LIMIT $2::integer + 1
) AS live;

-- name: considered_of_live
-- What the live appointments did to the deficits of their organization.
SELECT a.coach_no, e.considered
FROM appointments AS a
JOIN LATERAL (
    SELECT considered FROM events
    WHERE org_id = a.org_id AND appointment_id = a.appointment_id AND considered IS NOT NULL
    ORDER BY sequence DESC LIMIT 1
) AS e ON true
WHERE a.org_id = $1 AND a.status IN ('scheduled', 'completed', 'no_show');


-- name: count_overlaps
-- Live appointments that begin before an earlier one of the same coach is over; the constraint keeps this at 0. One pass
-- in order of time: joined with itself, the table took more than a statement may where its statistics were old.
SELECT count(*) AS overlaps
FROM (
    SELECT lower(occupied) < max(upper(occupied)) OVER (
        PARTITION BY coach_no ORDER BY lower(occupied), appointment_id
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS early
    FROM appointments
    WHERE org_id = $1 AND status IN ('scheduled', 'completed', 'no_show')
) AS a
WHERE early;
