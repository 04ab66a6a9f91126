-- name: list_coaches
-- Coaches of an organization in the order they were created, from after column $2 on; $4 asks for active ones or others.
SELECT
    k.coach_no, k.coach_id, k.name, k.email, k.specialty, k.timezone, k.score, k.max_daily_appointments, k.active,
    k.created_at, k.updated_at,
    ARRAY(
        SELECT c.calendar_id
        FROM calendar_coaches AS t
        JOIN calendars AS c ON c.org_id = t.org_id AND c.calendar_no = t.calendar_no
        WHERE t.org_id = k.org_id AND t.coach_no = k.coach_no
        ORDER BY c.calendar_no
    ) AS calendar_ids
FROM coaches AS k
WHERE k.org_id = $1 AND k.coach_no > $2 AND ($4::boolean IS NULL OR k.active = $4)
ORDER BY k.coach_no
LIMIT $3;

-- name: get_coach
SELECT
    k.coach_no, k.coach_id, k.name, k.email, k.specialty, k.timezone, k.score, k.max_daily_appointments, k.active,
    k.created_at, k.updated_at,
    ARRAY(
        SELECT c.calendar_id
        FROM calendar_coaches AS t
        JOIN calendars AS c ON c.org_id = t.org_id AND c.calendar_no = t.calendar_no
        WHERE t.org_id = k.org_id AND t.coach_no = k.coach_no
        ORDER BY c.calendar_no
    ) AS calendar_ids
FROM coaches AS k
WHERE k.org_id = $1 AND k.coach_id = $2;

-- name: add_coach
-- A coach in the next column; the caller holds the organization's row, so nobody else is given the same.
INSERT INTO coaches (
    org_id, coach_no, coach_id, name, email, specialty, timezone, score, max_daily_appointments, active
)
SELECT $1, coalesce(max(coach_no) + 1, 0), $2, $3, $4, $5, $6, $7, $8, $9
FROM coaches
WHERE org_id = $1
RETURNING coach_no;

-- name: save_coach
UPDATE coaches
SET name = $3, email = $4, specialty = $5, timezone = $6, score = $7, max_daily_appointments = $8, active = $9,
    updated_at = now()
WHERE org_id = $1 AND coach_no = $2;

-- name: touch_coach
UPDATE coaches SET updated_at = now() WHERE org_id = $1 AND coach_no = $2;

-- name: calendar_numbers
-- Integer keys of calendars by the ids the outside uses; unknown ids are not returned.
SELECT calendar_id AS id, calendar_no AS number FROM calendars WHERE org_id = $1 AND calendar_id = ANY ($2::text[]);

-- name: coach_numbers
-- Columns of coaches by the ids the outside uses; unknown ids are not returned.
SELECT coach_id AS id, coach_no AS number FROM coaches WHERE org_id = $1 AND coach_id = ANY ($2::text[]);

-- name: leave_calendars
DELETE FROM calendar_coaches WHERE org_id = $1 AND coach_no = $2;

-- name: join_calendars
INSERT INTO calendar_coaches (org_id, calendar_no, coach_no) SELECT $1, unnest($3::integer[]), $2;

-- name: empty_team
DELETE FROM calendar_coaches WHERE org_id = $1 AND calendar_no = $2;

-- name: fill_team
INSERT INTO calendar_coaches (org_id, calendar_no, coach_no) SELECT $1, $2, unnest($3::integer[]);

-- name: clear_weekdays
-- Forget a coach's windows of the given weekdays, Monday 0.
DELETE FROM weekly_windows WHERE org_id = $1 AND coach_no = $2 AND weekday = ANY ($3::smallint[]);

-- name: add_windows
INSERT INTO weekly_windows (org_id, coach_no, weekday, start_minute, end_minute)
SELECT $1, $2, * FROM unnest($3::smallint[], $4::smallint[], $5::smallint[]);

-- name: clear_overrides
DELETE FROM schedule_overrides WHERE org_id = $1 AND coach_no = $2;

-- name: add_override
INSERT INTO schedule_overrides (org_id, coach_no, local_date, windows) VALUES ($1, $2, $3, $4);

-- name: list_calendars
-- Calendars of an organization in the order they were created, from after number $2 on, each with its active coaches.
SELECT
    c.calendar_no, c.calendar_id, c.name, c.slot_duration, c.slot_interval, c.max_duration, c.buffer_before,
    c.buffer_after, c.min_notice_minutes, c.max_days_ahead, c.assignment, c.created_at, c.updated_at,
    ARRAY(
        SELECT k.coach_id
        FROM calendar_coaches AS t
        JOIN coaches AS k ON k.org_id = t.org_id AND k.coach_no = t.coach_no
        WHERE t.org_id = c.org_id AND t.calendar_no = c.calendar_no AND k.active
        ORDER BY k.coach_no
    ) AS coach_ids
FROM calendars AS c
WHERE c.org_id = $1 AND c.calendar_no > $2
ORDER BY c.calendar_no
LIMIT $3;

-- name: get_calendar
SELECT
    c.calendar_no, c.calendar_id, c.name, c.slot_duration, c.slot_interval, c.max_duration, c.buffer_before,
    c.buffer_after, c.min_notice_minutes, c.max_days_ahead, c.assignment, c.created_at, c.updated_at,
    ARRAY(
        SELECT k.coach_id
        FROM calendar_coaches AS t
        JOIN coaches AS k ON k.org_id = t.org_id AND k.coach_no = t.coach_no
        WHERE t.org_id = c.org_id AND t.calendar_no = c.calendar_no AND k.active
        ORDER BY k.coach_no
    ) AS coach_ids
FROM calendars AS c
WHERE c.org_id = $1 AND c.calendar_id = $2;

-- name: add_calendar
-- A calendar under the next number; the caller holds the organization's row.
INSERT INTO calendars (
    org_id, calendar_no, calendar_id, name, slot_duration, slot_interval, max_duration, buffer_before, buffer_after,
    min_notice_minutes, max_days_ahead, assignment
)
SELECT $1, coalesce(max(calendar_no) + 1, 1), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11
FROM calendars
WHERE org_id = $1
RETURNING calendar_no;

-- name: save_calendar
UPDATE calendars
SET name = $3, slot_duration = $4, slot_interval = $5, max_duration = $6, buffer_before = $7, buffer_after = $8,
    min_notice_minutes = $9, max_days_ahead = $10, assignment = $11, updated_at = now()
WHERE org_id = $1 AND calendar_no = $2;

-- name: list_contacts
-- Contacts of an organization in the order of their ids, from after $2 on.
SELECT contact_id, email, name, phone, created_at
FROM contacts
WHERE org_id = $1 AND ($2::uuid IS NULL OR contact_id > $2)
ORDER BY contact_id
LIMIT $3;

-- name: get_contact
SELECT contact_id, email, name, phone, created_at FROM contacts WHERE org_id = $1 AND contact_id = $2;

-- name: add_contact
-- Nothing is returned when the address has a contact already, made here or by a booking.
INSERT INTO contacts (org_id, contact_id, email, name, phone, created_at)
VALUES ($1, $2, $3, $4, $5, now())
ON CONFLICT DO NOTHING
RETURNING contact_id, email, name, phone, created_at;
