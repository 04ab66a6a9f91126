-- How far each destination's events are known to be delivered, so that looking for the rest begins there.

CREATE TABLE sweep_positions (
    org_id integer NOT NULL,
    destination text NOT NULL,
    committed_in xid8 NOT NULL,
    CONSTRAINT sweep_positions_pkey PRIMARY KEY (org_id, destination),
    CONSTRAINT sweep_positions_of_an_organization FOREIGN KEY (org_id) REFERENCES organizations
);
COMMENT ON COLUMN sweep_positions.committed_in IS 'every event committed before this transaction is delivered or dead';

-- What happened before somebody listened is not told to them: only what is committed from now on.
INSERT INTO sweep_positions (org_id, destination, committed_in)
SELECT org_id, 'notifications', pg_current_xact_id() FROM organizations;
