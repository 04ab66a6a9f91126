-- Whether a move must not be committed: its claim is behind the fence, or was given up. Who gives it up puts a tombstone
-- under its token, as under the id of a booking, and then waits for the gate's lock. So the tombstone is looked for here,
-- when the lock is held: a move that does not see it is one that is waited for. Only a move claimed in Redis has an epoch.
CREATE FUNCTION fenced_move(org integer, move uuid, coach integer, new_day date, claim_epoch bigint, claim_revision bigint)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    PERFORM fenced_claims(
        ARRAY[org], ARRAY[move], ARRAY[coach], ARRAY[new_day], ARRAY[claim_epoch], ARRAY[claim_revision]);
    IF FOUND THEN
        RETURN true;
    END IF;
    RETURN claim_epoch IS NOT NULL
        AND EXISTS (SELECT FROM appointments AS a WHERE a.org_id = org AND a.appointment_id = move);
END
$$;
