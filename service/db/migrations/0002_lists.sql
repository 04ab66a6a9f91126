-- Lists of appointments go by start, then id; the index carries both so that a page begins where the last one ended.

CREATE INDEX appointments_by_start ON appointments (org_id, starts_at, appointment_id);
