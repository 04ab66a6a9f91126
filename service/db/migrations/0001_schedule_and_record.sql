-- The record: organizations and everything that belongs to one. Every table, primary key, unique constraint and
-- foreign key begins with the organization, an integer inside and a name outside, so that the data can be
-- distributed by it without a change of schema.

CREATE EXTENSION IF NOT EXISTS btree_gist;

CREATE TYPE appointment_status AS ENUM ('scheduled', 'completed', 'cancelled', 'no_show', 'void');

CREATE TABLE organizations (
    org_id integer GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    roster_version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT organizations_pkey PRIMARY KEY (org_id),
    CONSTRAINT organizations_one_per_name UNIQUE (name)
);
COMMENT ON COLUMN organizations.roster_version IS 'counts up with every change of a coach, calendar or schedule';

CREATE TABLE api_keys (
    org_id integer NOT NULL,
    key_id uuid NOT NULL,
    key_hash bytea NOT NULL,
    name text NOT NULL,
    scopes text[] NOT NULL,
    rate_limit integer,
    source text NOT NULL DEFAULT 'local',
    created_at timestamptz NOT NULL DEFAULT now(),
    validated_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    CONSTRAINT api_keys_pkey PRIMARY KEY (org_id, key_id),
    CONSTRAINT api_keys_one_per_hash UNIQUE (org_id, key_hash),
    CONSTRAINT api_keys_of_an_organization FOREIGN KEY (org_id) REFERENCES organizations,
    CONSTRAINT api_keys_known_scopes CHECK (scopes <@ ARRAY['read', 'write', 'admin']),
    CONSTRAINT api_keys_limit_not_negative CHECK (rate_limit >= 0),
    CONSTRAINT api_keys_known_source CHECK (source IN ('local', 'auth-service'))
);
CREATE INDEX api_keys_by_hash ON api_keys (key_hash);
COMMENT ON COLUMN api_keys.rate_limit IS 'requests a window; null: the setting decides; 0: no limit';

CREATE TABLE coaches (
    org_id integer NOT NULL,
    coach_no integer NOT NULL,
    coach_id text NOT NULL,
    name text NOT NULL,
    email text NOT NULL,
    specialty text,
    timezone text NOT NULL,
    score integer NOT NULL,
    max_daily_appointments integer NOT NULL,
    active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT coaches_pkey PRIMARY KEY (org_id, coach_no),
    CONSTRAINT coaches_one_per_id UNIQUE (org_id, coach_id),
    CONSTRAINT coaches_of_an_organization FOREIGN KEY (org_id) REFERENCES organizations,
    CONSTRAINT coaches_column_fits CHECK (coach_no BETWEEN 0 AND 65535),
    CONSTRAINT coaches_score_in_millionths CHECK (score BETWEEN 0 AND 1000000),
    CONSTRAINT coaches_daily_limit_fits CHECK (max_daily_appointments BETWEEN 0 AND 288)
);
CREATE UNIQUE INDEX coaches_one_per_email ON coaches (org_id, lower(email));
COMMENT ON COLUMN coaches.coach_no IS 'the coach''s column in every plane of the grid; never reused';

CREATE TABLE weekly_windows (
    org_id integer NOT NULL,
    coach_no integer NOT NULL,
    weekday smallint NOT NULL,
    start_minute smallint NOT NULL,
    end_minute smallint NOT NULL,
    CONSTRAINT weekly_windows_pkey PRIMARY KEY (org_id, coach_no, weekday, start_minute),
    CONSTRAINT weekly_windows_of_a_coach FOREIGN KEY (org_id, coach_no) REFERENCES coaches,
    CONSTRAINT weekly_windows_monday_is_0 CHECK (weekday BETWEEN 0 AND 6),
    CONSTRAINT weekly_windows_inside_the_day CHECK (0 <= start_minute AND start_minute < end_minute AND end_minute <= 1440)
);

CREATE TABLE schedule_overrides (
    org_id integer NOT NULL,
    coach_no integer NOT NULL,
    local_date date NOT NULL,
    windows smallint[] NOT NULL,
    CONSTRAINT schedule_overrides_pkey PRIMARY KEY (org_id, coach_no, local_date),
    CONSTRAINT schedule_overrides_of_a_coach FOREIGN KEY (org_id, coach_no) REFERENCES coaches
);
COMMENT ON COLUMN schedule_overrides.windows IS 'start and end minute of each window of that date; empty: closed';

CREATE TABLE external_busy (
    org_id integer NOT NULL,
    coach_no integer NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    CONSTRAINT external_busy_pkey PRIMARY KEY (org_id, coach_no, starts_at),
    CONSTRAINT external_busy_of_a_coach FOREIGN KEY (org_id, coach_no) REFERENCES coaches,
    CONSTRAINT external_busy_not_empty CHECK (starts_at < ends_at)
);
COMMENT ON TABLE external_busy IS 'when a coach''s external calendar says busy, as last fetched';

CREATE TABLE calendars (
    org_id integer NOT NULL,
    calendar_no integer NOT NULL,
    calendar_id text NOT NULL,
    name text NOT NULL,
    slot_duration integer NOT NULL,
    slot_interval integer NOT NULL,
    max_duration integer,
    buffer_before integer NOT NULL DEFAULT 0,
    buffer_after integer NOT NULL DEFAULT 0,
    min_notice_minutes integer NOT NULL,
    max_days_ahead integer NOT NULL,
    assignment text NOT NULL DEFAULT 'balanced',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT calendars_pkey PRIMARY KEY (org_id, calendar_no),
    CONSTRAINT calendars_one_per_id UNIQUE (org_id, calendar_id),
    CONSTRAINT calendars_of_an_organization FOREIGN KEY (org_id) REFERENCES organizations,
    CONSTRAINT calendars_in_whole_cells CHECK (
        slot_duration % 5 = 0 AND slot_interval % 5 = 0 AND buffer_before % 5 = 0 AND buffer_after % 5 = 0
        AND coalesce(max_duration, 0) % 5 = 0),
    CONSTRAINT calendars_sensible_minutes CHECK (
        slot_duration BETWEEN 5 AND 1440 AND slot_interval BETWEEN 5 AND 1440 AND buffer_before BETWEEN 0 AND 240
        AND buffer_after BETWEEN 0 AND 240 AND max_duration BETWEEN slot_duration AND 1440
        AND min_notice_minutes >= 0 AND max_days_ahead BETWEEN 1 AND 366),
    CONSTRAINT calendars_known_assignment CHECK (assignment IN ('balanced', 'score'))
);

CREATE TABLE calendar_coaches (
    org_id integer NOT NULL,
    calendar_no integer NOT NULL,
    coach_no integer NOT NULL,
    CONSTRAINT calendar_coaches_pkey PRIMARY KEY (org_id, calendar_no, coach_no),
    CONSTRAINT calendar_coaches_of_a_calendar FOREIGN KEY (org_id, calendar_no) REFERENCES calendars,
    CONSTRAINT calendar_coaches_of_a_coach FOREIGN KEY (org_id, coach_no) REFERENCES coaches
);

CREATE TABLE contacts (
    org_id integer NOT NULL,
    contact_id uuid NOT NULL,
    email text NOT NULL,
    name text,
    phone text,
    created_at timestamptz NOT NULL,
    CONSTRAINT contacts_pkey PRIMARY KEY (org_id, contact_id),
    CONSTRAINT contacts_of_an_organization FOREIGN KEY (org_id) REFERENCES organizations
);
COMMENT ON COLUMN contacts.contact_id IS
    'UUIDv5 of the organization and the lower-cased e-mail address, so the primary key makes the address unique';

CREATE TABLE appointments (
    org_id integer NOT NULL,
    appointment_id uuid NOT NULL,
    calendar_no integer,
    coach_no integer NOT NULL,
    contact_id uuid,
    contact_name text,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    occupied tstzrange NOT NULL,
    local_day date NOT NULL,
    timezone text,
    status appointment_status NOT NULL DEFAULT 'scheduled',
    version integer NOT NULL DEFAULT 1,
    strategy text,
    considered smallint,
    notes text,
    metadata json,
    idempotency_key text,
    fingerprint bytea,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    confirmed_at timestamptz,
    cancelled_at timestamptz,
    CONSTRAINT appointments_pkey PRIMARY KEY (org_id, appointment_id),
    CONSTRAINT appointments_with_a_calendar FOREIGN KEY (org_id, calendar_no) REFERENCES calendars,
    CONSTRAINT appointments_with_a_coach FOREIGN KEY (org_id, coach_no) REFERENCES coaches,
    CONSTRAINT appointments_with_a_contact FOREIGN KEY (org_id, contact_id) REFERENCES contacts,
    CONSTRAINT appointments_end_after_start CHECK (starts_at < ends_at),
    CONSTRAINT appointments_whole_unless_void CHECK (
        status = 'void' OR (calendar_no IS NOT NULL AND contact_id IS NOT NULL AND strategy IS NOT NULL)),
    CONSTRAINT appointments_no_overlap_per_coach EXCLUDE USING gist (org_id WITH =, coach_no WITH =, occupied WITH &&)
        WHERE (status IN ('scheduled', 'completed', 'no_show'))
);
CREATE UNIQUE INDEX appointments_one_live_per_coach_and_time ON appointments (org_id, coach_no, starts_at)
    WHERE status IN ('scheduled', 'completed', 'no_show');
CREATE UNIQUE INDEX appointments_one_per_idempotency_key ON appointments (org_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
COMMENT ON COLUMN appointments.occupied IS 'the appointment with the buffers its calendar had when it was booked';
COMMENT ON COLUMN appointments.local_day IS 'the date of the start in the coach''s zone, on which it counts';

CREATE TABLE events (
    org_id integer NOT NULL,
    appointment_id uuid NOT NULL,
    sequence integer NOT NULL,
    type text NOT NULL,
    occurred_at timestamptz NOT NULL,
    actor text NOT NULL,
    correlation_id text NOT NULL,
    reason text,
    token uuid,
    considered bytea,
    data json NOT NULL,
    committed_in xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT events_pkey PRIMARY KEY (org_id, appointment_id, sequence)
);
CREATE INDEX events_in_order_of_commit ON events (org_id, committed_in);
COMMENT ON COLUMN events.token IS 'of the claim or release in Redis that this change settles';
COMMENT ON COLUMN events.considered IS 'who was considered: u16 column, u32 share, i32 deficit each, big-endian';
COMMENT ON COLUMN events.data IS 'the appointment after the change, byte for byte as it was answered';

CREATE TABLE idempotency_records (
    org_id integer NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    status smallint NOT NULL,
    appointment_id uuid,
    body bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_records_pkey PRIMARY KEY (org_id, key)
);
CREATE INDEX idempotency_records_by_age ON idempotency_records (created_at);

CREATE TABLE webhook_events (
    org_id integer NOT NULL,
    event_id text NOT NULL,
    event_type text NOT NULL,
    body json NOT NULL,
    correlation_id text NOT NULL,
    state text NOT NULL DEFAULT 'received',
    attempts integer NOT NULL DEFAULT 0,
    error text,
    received_at timestamptz NOT NULL DEFAULT now(),
    processed_at timestamptz,
    CONSTRAINT webhook_events_pkey PRIMARY KEY (org_id, event_id),
    CONSTRAINT webhook_events_of_an_organization FOREIGN KEY (org_id) REFERENCES organizations,
    CONSTRAINT webhook_events_known_state CHECK (state IN ('received', 'processed', 'retrying', 'dead'))
);
CREATE INDEX webhook_events_unfinished ON webhook_events (org_id, received_at) WHERE state IN ('received', 'retrying');

CREATE TABLE deliveries (
    org_id integer NOT NULL,
    appointment_id uuid NOT NULL,
    sequence integer NOT NULL,
    destination text NOT NULL,
    state text NOT NULL,
    attempts integer NOT NULL,
    last_status smallint,
    last_error text,
    reference text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    delivered_at timestamptz,
    CONSTRAINT deliveries_pkey PRIMARY KEY (org_id, appointment_id, sequence, destination),
    CONSTRAINT deliveries_of_an_event FOREIGN KEY (org_id, appointment_id, sequence) REFERENCES events,
    CONSTRAINT deliveries_known_state CHECK (state IN ('delivered', 'retrying', 'dead'))
);
COMMENT ON TABLE deliveries IS 'one event to one destination; an event without a row is on its way (pending)';
COMMENT ON COLUMN deliveries.reference IS 'what the receiver called it: the CRM''s id, the calendar''s block id';
