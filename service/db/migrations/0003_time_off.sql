-- When a coach is away although it works: asked for over the API, or told by the external calendar.

CREATE TABLE time_off (
    org_id integer NOT NULL,
    coach_no integer NOT NULL,
    time_off_id uuid NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    reason text,
    source text NOT NULL DEFAULT 'api',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT time_off_pkey PRIMARY KEY (org_id, coach_no, time_off_id),
    CONSTRAINT time_off_of_a_coach FOREIGN KEY (org_id, coach_no) REFERENCES coaches,
    CONSTRAINT time_off_not_empty CHECK (starts_at < ends_at),
    CONSTRAINT time_off_known_source CHECK (source IN ('api', 'calendar'))
);
CREATE INDEX time_off_by_end ON time_off (org_id, coach_no, ends_at);
