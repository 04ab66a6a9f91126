"""Messages: events on their way to those who must hear of them, and events of the outside on their way in.

Promises: every committed event reaches every destination at least once under one id, whatever dies between;
nothing uncommitted is announced; one destination that hangs delays no other; what cannot be delivered is kept
where it can be seen. Refuses to know: who made a request and how it was decided.
"""
