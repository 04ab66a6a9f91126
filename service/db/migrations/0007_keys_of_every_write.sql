-- Idempotency keys of every write, not of bookings alone: a record is held while its request is carried out, and then
-- has the whole answer.

ALTER TABLE idempotency_records ALTER COLUMN status DROP NOT NULL;
ALTER TABLE idempotency_records
    ADD COLUMN headers json,
    ADD COLUMN operation uuid,
    ADD COLUMN owner uuid,
    ADD COLUMN held_until timestamptz,
    ADD CONSTRAINT idempotency_records_answered_or_held CHECK ((status IS NULL) = (held_until IS NOT NULL));
COMMENT ON COLUMN idempotency_records.operation IS 'made when the key was first begun; stays when the request is taken over';
COMMENT ON COLUMN idempotency_records.owner IS 'whoever carries the request out; nobody else may complete it';
COMMENT ON COLUMN idempotency_records.held_until IS 'then the same request may be taken over';
