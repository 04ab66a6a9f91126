-- Deliveries and incoming events can be looked at and replayed; an external calendar may sign its events.

ALTER TABLE deliveries
    ADD COLUMN replays integer NOT NULL DEFAULT 0,
    ADD COLUMN enqueued_at timestamptz,
    DROP CONSTRAINT deliveries_known_state,
    ADD CONSTRAINT deliveries_known_state CHECK (state IN ('pending', 'delivered', 'retrying', 'dead'));
COMMENT ON TABLE deliveries IS
    'one event to one destination; an event without a row, or with a pending one after a replay, was not tried yet';
COMMENT ON COLUMN deliveries.replays IS 'how often it was asked to be sent again; attempts count from the last time';
COMMENT ON COLUMN deliveries.enqueued_at IS 'when the worker last saw to it that a replay is on its way';
CREATE INDEX deliveries_in_trouble ON deliveries (org_id, appointment_id, sequence, destination)
    WHERE state IN ('dead', 'retrying');
CREATE INDEX deliveries_dead ON deliveries (org_id, destination, updated_at) WHERE state = 'dead';
CREATE INDEX deliveries_replayed ON deliveries (org_id, enqueued_at)
    WHERE replays > 0 AND state IN ('pending', 'retrying');

CREATE TABLE delivery_attempts (
    org_id integer NOT NULL,
    appointment_id uuid NOT NULL,
    sequence integer NOT NULL,
    destination text NOT NULL,
    made_at timestamptz NOT NULL,
    replay integer NOT NULL,
    attempt integer NOT NULL,
    outcome text NOT NULL,
    status smallint,
    duration_ms integer NOT NULL,
    answer text,
    CONSTRAINT delivery_attempts_pkey PRIMARY KEY (org_id, appointment_id, sequence, destination, made_at),
    CONSTRAINT delivery_attempts_of_a_delivery FOREIGN KEY (org_id, appointment_id, sequence, destination)
        REFERENCES deliveries,
    CONSTRAINT delivery_attempts_known_outcome CHECK (outcome IN ('delivered', 'retrying', 'dead'))
);
COMMENT ON COLUMN delivery_attempts.replay IS 'the replay it belongs to; 0 before the first';
COMMENT ON COLUMN delivery_attempts.outcome IS 'the state the attempt led to';
COMMENT ON COLUMN delivery_attempts.answer IS 'the first kilobyte of the answer, or why there was none';

ALTER TABLE webhook_events
    ADD COLUMN replays integer NOT NULL DEFAULT 0,
    ADD COLUMN enqueued_at timestamptz;
CREATE INDEX webhook_events_by_arrival ON webhook_events (org_id, received_at, event_id);
CREATE INDEX webhook_events_by_state ON webhook_events (org_id, state, received_at, event_id);
CREATE INDEX webhook_events_replayed ON webhook_events (org_id, enqueued_at)
    WHERE replays > 0 AND state IN ('received', 'retrying');

CREATE TABLE calendar_secrets (
    org_id integer NOT NULL,
    secret_id uuid NOT NULL,
    secret bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    CONSTRAINT calendar_secrets_pkey PRIMARY KEY (org_id, secret_id),
    CONSTRAINT calendar_secrets_of_an_organization FOREIGN KEY (org_id) REFERENCES organizations
);
COMMENT ON TABLE calendar_secrets IS 'what an external calendar signs its events with; a signature cannot be checked by a hash';
COMMENT ON COLUMN calendar_secrets.expires_at IS 'until when a secret that was replaced still counts; null for the current one';
