-- name: list_webhook_events
-- Incoming events, newest first, before ($2, $3).
SELECT event_id, event_type, state, attempts, error, replays, received_at, processed_at
FROM webhook_events
WHERE org_id = $1 AND (received_at, event_id) < ($2::timestamptz, $3::text)
ORDER BY received_at DESC, event_id DESC
LIMIT $4;

-- name: list_webhook_events_in_state
-- The same, of one state.
SELECT event_id, event_type, state, attempts, error, replays, received_at, processed_at
FROM webhook_events
WHERE org_id = $1 AND state = $5 AND (received_at, event_id) < ($2::timestamptz, $3::text)
ORDER BY received_at DESC, event_id DESC
LIMIT $4;

-- name: replay_webhook_event
-- Ask for a dead event to be worked on again; nothing comes back for one that is not dead. The worker carries it out,
-- in the turn of one that arrives now: after what came in the meantime, and before what comes later.
UPDATE webhook_events
SET state = 'received', attempts = 0, error = NULL, replays = replays + 1, enqueued_at = NULL, arrival = DEFAULT
WHERE org_id = $1 AND event_id = $2 AND state = 'dead'
RETURNING event_id;

-- name: webhook_replays_to_enqueue
-- Replayed events that have not ended, and were not put on their way or not for a while: Redis may have lost them.
SELECT org_id, event_id, attempts, replays
FROM webhook_events
WHERE replays > 0 AND state IN ('received', 'retrying')
    AND (enqueued_at IS NULL OR enqueued_at < now() - make_interval(secs => $1))
ORDER BY enqueued_at NULLS FIRST
LIMIT $2;

-- name: webhook_replays_enqueued
-- Events that are on their way again, unless another replay was asked for meanwhile.
UPDATE webhook_events AS e
SET enqueued_at = now()
FROM unnest($1::integer[], $2::text[], $3::integer[]) AS w (org_id, event_id, replays)
WHERE e.org_id = w.org_id AND e.event_id = w.event_id AND e.replays = w.replays;
