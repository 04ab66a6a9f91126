-- What was committed while notifications were being introduced: it has no delivery and lies before the place from which
-- the sweeper looks, so nobody would ever be told, and what follows of those appointments would wait for it.

INSERT INTO deliveries (org_id, appointment_id, sequence, destination, state, attempts)
SELECT e.org_id, e.appointment_id, e.sequence, 'notifications', 'delivered', 0
FROM sweep_positions AS p
JOIN events AS e ON e.org_id = p.org_id AND e.committed_in < p.committed_in
WHERE p.destination = 'notifications'
    AND e.type IN ('appointment.created', 'appointment.rescheduled', 'appointment.reassigned', 'appointment.cancelled')
ON CONFLICT DO NOTHING;
