-- Events of the external calendar about one appointment, or one coach, are applied in the order they arrived in. What was
-- accepted before this names nothing, and waits for nobody. A sequence of its own, for an identity column would be filled
-- in for all rows there are: the table would be written anew, and nothing accepted meanwhile.

CREATE SEQUENCE webhook_events_arrival AS bigint;
ALTER TABLE webhook_events
    ADD COLUMN arrival bigint,
    ADD COLUMN concerns text;
ALTER TABLE webhook_events ALTER COLUMN arrival SET DEFAULT nextval('webhook_events_arrival');
ALTER SEQUENCE webhook_events_arrival OWNED BY webhook_events.arrival;
CREATE INDEX webhook_events_in_turn ON webhook_events (org_id, concerns, arrival)
    WHERE state IN ('received', 'retrying');
COMMENT ON COLUMN webhook_events.arrival IS
    'its place in the order, given before its commit: who is answered before sending the next has them in order';
COMMENT ON COLUMN webhook_events.concerns IS 'the appointment or the coach it is about; null where it is not known';
