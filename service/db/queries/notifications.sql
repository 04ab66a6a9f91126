-- name: due_reminders
-- Scheduled appointments that start in ($1, $2] and whose contact was not reminded of that start, soonest first; told_at
-- is when the contact was last told of the time.
SELECT
    a.org_id, a.appointment_id, a.calendar_no, c.calendar_id, a.coach_no, k.coach_id, a.contact_id, p.email,
    a.contact_name, a.starts_at, a.ends_at, lower(a.occupied) AS occupied_from, upper(a.occupied) AS occupied_to,
    a.local_day, a.timezone, a.status::text AS status, a.notes, a.metadata, a.version, a.created_at, a.updated_at,
    a.confirmed_at, a.cancelled_at, a.strategy, a.considered, t.told_at
FROM appointments AS a
JOIN calendars AS c ON c.org_id = a.org_id AND c.calendar_no = a.calendar_no
JOIN coaches AS k ON k.org_id = a.org_id AND k.coach_no = a.coach_no
JOIN contacts AS p ON p.org_id = a.org_id AND p.contact_id = a.contact_id
JOIN LATERAL (
    SELECT max(e.occurred_at) AS told_at FROM events AS e
    WHERE e.org_id = a.org_id AND e.appointment_id = a.appointment_id
        AND e.type IN ('appointment.created', 'appointment.rescheduled', 'appointment.reassigned')
) AS t ON true
WHERE a.status = 'scheduled' AND NOT (a.starts_at = ANY (a.reminded_for)) AND a.starts_at > $1 AND a.starts_at <= $2
ORDER BY a.starts_at
LIMIT $3;

-- name: need_no_reminder
-- Take starts as told already. No change of the appointment: neither its version nor its events move.
WITH told AS (
    SELECT a.org_id, a.appointment_id
    FROM unnest($1::integer[], $2::uuid[], $3::timestamptz[]) AS w (org_id, appointment_id, starts_at)
    JOIN appointments AS a USING (org_id, appointment_id, starts_at)
    WHERE NOT (a.starts_at = ANY (a.reminded_for))
    FOR NO KEY UPDATE OF a SKIP LOCKED
)
UPDATE appointments AS a
SET reminded_for = reminded_for || starts_at
FROM told AS t
WHERE a.org_id = t.org_id AND a.appointment_id = t.appointment_id;

-- name: circumstances
-- What a notification says beyond its event: the names, and the appointment before it.
SELECT c.name AS calendar_name, k.name AS coach_name, b.data AS earlier, bk.name AS earlier_coach_name
FROM calendars AS c
JOIN coaches AS k ON k.org_id = c.org_id AND k.coach_id = $4
LEFT JOIN events AS b ON b.org_id = c.org_id AND b.appointment_id = $2 AND b.sequence = $3 - 1
LEFT JOIN coaches AS bk ON bk.org_id = b.org_id AND bk.coach_id = b.data ->> 'coach_id'
WHERE c.org_id = $1 AND c.calendar_id = $5;

-- name: notifications_of
-- The events of an appointment, oldest first, and where their delivery to the contact stands.
SELECT e.type, d.state, d.attempts, d.last_error, d.delivered_at
FROM events AS e
LEFT JOIN deliveries AS d ON d.org_id = e.org_id AND d.appointment_id = e.appointment_id
    AND d.sequence = e.sequence AND d.destination = 'notifications'
WHERE e.org_id = $1 AND e.appointment_id = $2
ORDER BY e.sequence;
