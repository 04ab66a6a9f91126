-- Of which starts the contact was reminded, so that there is one reminder for each, whoever sends it and whatever the
-- appointment was moved to in between.

ALTER TABLE appointments ADD COLUMN reminded_for timestamptz[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN appointments.reminded_for IS 'starts the contact was reminded of, or told of so late that it need not be';

CREATE INDEX appointments_to_remind ON appointments (starts_at)
    WHERE status = 'scheduled' AND NOT (starts_at = ANY (reminded_for));

-- What happened before there were notifications is told to nobody: no attempt is left to be made.
INSERT INTO deliveries (org_id, appointment_id, sequence, destination, state, attempts)
SELECT org_id, appointment_id, sequence, 'notifications', 'delivered', 0
FROM events
WHERE type IN ('appointment.created', 'appointment.rescheduled', 'appointment.reassigned', 'appointment.cancelled')
ON CONFLICT DO NOTHING;
