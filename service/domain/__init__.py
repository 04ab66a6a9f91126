"""Values and rules of booking: the grid, local hours, who gets an appointment, what an appointment may become.

Promises: everything here is a pure function of its arguments, so the same rule serves the API, the worker,
the tests and the Postgres-only mode. Refuses to know: Redis, SQL, HTTP, the clock and the event loop.
"""
