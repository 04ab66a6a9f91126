-- Endpoints of organizations: who hears of which events, from when on, and the secrets its webhooks are signed with.

CREATE TABLE webhook_endpoints (
    org_id integer NOT NULL,
    endpoint_id uuid NOT NULL,
    url text NOT NULL,
    description text,
    state text NOT NULL DEFAULT 'active',
    reason text,
    paused_at timestamptz,
    failing_since timestamptz,
    swept_to xid8 NOT NULL DEFAULT pg_snapshot_xmin(pg_current_snapshot()),
    sweep_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT webhook_endpoints_pkey PRIMARY KEY (org_id, endpoint_id),
    CONSTRAINT webhook_endpoints_of_an_organization FOREIGN KEY (org_id) REFERENCES organizations,
    CONSTRAINT webhook_endpoints_known_state CHECK (state IN ('active', 'paused', 'disabled')),
    CONSTRAINT webhook_endpoints_say_since_when CHECK ((state = 'active') = (paused_at IS NULL))
);
COMMENT ON COLUMN webhook_endpoints.failing_since IS 'the first of its failures that no success has followed';
COMMENT ON COLUMN webhook_endpoints.swept_to IS 'every event of an older transaction has come to its end here';
COMMENT ON COLUMN webhook_endpoints.sweep_at IS 'when to look again for events that are not on their way';

CREATE TABLE webhook_subscriptions (
    org_id integer NOT NULL,
    endpoint_id uuid NOT NULL,
    type text NOT NULL,
    since pg_snapshot NOT NULL DEFAULT pg_current_snapshot(),
    CONSTRAINT webhook_subscriptions_pkey PRIMARY KEY (org_id, endpoint_id, type),
    CONSTRAINT webhook_subscriptions_of_an_endpoint FOREIGN KEY (org_id, endpoint_id)
        REFERENCES webhook_endpoints ON DELETE CASCADE
);
COMMENT ON COLUMN webhook_subscriptions.since IS 'events that were committed when it was taken are not heard';

CREATE TABLE webhook_secrets (
    org_id integer NOT NULL,
    endpoint_id uuid NOT NULL,
    secret_id uuid NOT NULL,
    secret bytea NOT NULL,
    signs_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT webhook_secrets_pkey PRIMARY KEY (org_id, endpoint_id, secret_id),
    CONSTRAINT webhook_secrets_of_an_endpoint FOREIGN KEY (org_id, endpoint_id)
        REFERENCES webhook_endpoints ON DELETE CASCADE
);
COMMENT ON COLUMN webhook_secrets.signs_until IS 'null: until it is replaced';
