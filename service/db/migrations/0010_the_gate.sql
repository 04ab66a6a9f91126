-- What Postgres must know of the gate, so that no claim can be committed that Redis has forgotten, and none beside a
-- change that Redis was never told of.

CREATE TABLE gate (
    sole boolean NOT NULL DEFAULT true,
    epoch bigint NOT NULL,
    server text,
    CONSTRAINT gate_pkey PRIMARY KEY (sole),
    CONSTRAINT gate_has_one_row CHECK (sole)
);
COMMENT ON TABLE gate IS 'the Redis that claims are made in: what another one, or the same one before it was emptied, said is void';
COMMENT ON COLUMN gate.epoch IS 'counts up whenever the grid was thrown away; a claim of an earlier epoch is not committed';
COMMENT ON COLUMN gate.server IS 'run id of the Redis server the grid was derived in';
INSERT INTO gate (epoch) VALUES (1);

CREATE TABLE grid_repairs (
    org_id integer NOT NULL,
    repair_id bigint GENERATED ALWAYS AS IDENTITY,
    coach_no integer NOT NULL,
    first_day date NOT NULL,
    last_day date NOT NULL,
    owed boolean NOT NULL DEFAULT false,
    noted_at timestamptz NOT NULL DEFAULT now(),
    epoch bigint,
    revision bigint,
    repaired_at timestamptz,
    CONSTRAINT grid_repairs_pkey PRIMARY KEY (org_id, repair_id),
    CONSTRAINT grid_repairs_of_a_coach FOREIGN KEY (org_id, coach_no) REFERENCES coaches,
    CONSTRAINT grid_repairs_first_before_last CHECK (first_day <= last_day)
);
CREATE INDEX grid_repairs_by_coach ON grid_repairs (org_id, coach_no);
CREATE INDEX grid_repairs_waiting ON grid_repairs (org_id, coach_no) WHERE repaired_at IS NULL;
COMMENT ON TABLE grid_repairs IS 'coach-days that were changed without the grid, from the change''s own transaction on';
COMMENT ON COLUMN grid_repairs.owed IS 'the change was an appointment''s: what its coaches are owed changed too';
COMMENT ON COLUMN grid_repairs.revision IS
    'of the roster in Redis when the grid was repaired: claims made before, in this epoch or an earlier one, are not committed';

-- Which claims of a batch must not be committed: their epoch is over, or their coach-day was changed without the grid and
-- they were made before it was repaired. The lock is shared by all who claim in Redis, and held alone by who decides
-- without it; each statement of a volatile function sees what was committed while the lock was waited for.
CREATE FUNCTION fenced_claims(orgs integer[], claims uuid[], coaches integer[], days date[], epochs bigint[], revisions bigint[])
RETURNS SETOF uuid
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    current_epoch bigint;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('booking gate'));
    SELECT epoch INTO current_epoch FROM gate;
    IF NOT EXISTS (SELECT FROM unnest(epochs) AS e (epoch) WHERE e.epoch <> current_epoch)
        AND NOT EXISTS (SELECT FROM grid_repairs)
    THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT w.claim
    FROM unnest(orgs, claims, coaches, days, epochs, revisions) AS w (org_id, claim, coach_no, day, epoch, revision)
    WHERE w.epoch <> current_epoch
        OR w.epoch IS NOT NULL AND EXISTS (
            SELECT FROM grid_repairs AS r
            WHERE r.org_id = w.org_id AND r.coach_no = w.coach_no AND w.day BETWEEN r.first_day AND r.last_day
                AND (r.revision IS NULL OR (w.epoch, w.revision) < (r.epoch, r.revision)));
END
$$;

-- Whatever changes when a coach can be booked is a change the grid must be told of; until then nobody books by what the
-- grid said before. A claim names the coach's local date, so a day more on each side covers every time zone. Hours and
-- limits are of all days.
CREATE FUNCTION note_closed_period() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO grid_repairs (org_id, coach_no, first_day, last_day)
    SELECT org_id, coach_no, (min(starts_at) AT TIME ZONE 'UTC')::date - 1, (max(ends_at) AT TIME ZONE 'UTC')::date + 1
    FROM changed GROUP BY org_id, coach_no;
    RETURN NULL;
END
$$;

CREATE FUNCTION note_hours() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO grid_repairs (org_id, coach_no, first_day, last_day)
    SELECT DISTINCT org_id, coach_no, date '1970-01-02', date '9990-01-01' FROM changed;
    RETURN NULL;
END
$$;

CREATE FUNCTION note_coach() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO grid_repairs (org_id, coach_no, first_day, last_day)
    SELECT a.org_id, a.coach_no, date '1970-01-02', date '9990-01-01'
    FROM after AS a
    JOIN before AS b ON b.org_id = a.org_id AND b.coach_no = a.coach_no
    WHERE (a.max_daily_appointments, a.active, a.timezone) <> (b.max_daily_appointments, b.active, b.timezone);
    RETURN NULL;
END
$$;

CREATE TRIGGER note_time_off AFTER INSERT ON time_off
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_closed_period();
CREATE TRIGGER note_time_off_gone AFTER DELETE ON time_off
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_closed_period();
CREATE TRIGGER note_time_off_cut AFTER UPDATE ON time_off
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_closed_period();
CREATE TRIGGER note_busy AFTER INSERT ON external_busy
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_closed_period();
CREATE TRIGGER note_busy_gone AFTER DELETE ON external_busy
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_closed_period();
CREATE TRIGGER note_hours_new AFTER INSERT ON weekly_windows
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_hours();
CREATE TRIGGER note_hours_gone AFTER DELETE ON weekly_windows
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_hours();
CREATE TRIGGER note_override AFTER INSERT ON schedule_overrides
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_hours();
CREATE TRIGGER note_override_changed AFTER UPDATE ON schedule_overrides
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_hours();
CREATE TRIGGER note_override_gone AFTER DELETE ON schedule_overrides
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_hours();
CREATE TRIGGER note_coach AFTER UPDATE ON coaches
    REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION note_coach();
