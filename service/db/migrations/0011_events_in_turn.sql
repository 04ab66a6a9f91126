-- Events of the external calendar about one appointment, or one coach, are applied in the order they arrived in. What was
-- accepted before this names nothing, and waits for nobody.

ALTER TABLE webhook_events
    ADD COLUMN arrival bigint GENERATED ALWAYS AS IDENTITY,
    ADD COLUMN concerns text;
CREATE INDEX webhook_events_in_turn ON webhook_events (org_id, concerns, arrival)
    WHERE state IN ('received', 'retrying');
COMMENT ON COLUMN webhook_events.arrival IS
    'its place in the order, given before its commit: who is answered before sending the next has them in order';
COMMENT ON COLUMN webhook_events.concerns IS 'the appointment or the coach it is about; null where it is not known';
