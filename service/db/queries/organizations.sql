-- name: add_organization
-- A new organization; nothing is returned when the name is taken.
INSERT INTO organizations (name) VALUES ($1)
ON CONFLICT ON CONSTRAINT organizations_one_per_name DO NOTHING
RETURNING org_id, name, created_at, 0::bigint AS coaches, 0::bigint AS calendars, 0::bigint AS keys;

-- name: list_organizations
-- Every organization by name, with how many active coaches, calendars and usable keys it has.
SELECT
    o.org_id, o.name, o.created_at,
    (SELECT count(*) FROM coaches AS k WHERE k.org_id = o.org_id AND k.active) AS coaches,
    (SELECT count(*) FROM calendars AS c WHERE c.org_id = o.org_id) AS calendars,
    (SELECT count(*) FROM api_keys AS a WHERE a.org_id = o.org_id AND a.revoked_at IS NULL) AS keys
FROM organizations AS o
ORDER BY o.name;
