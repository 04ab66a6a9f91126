"""Postgres as the record: what is here is true, whatever Redis believes.

Promises: statements live in `queries/*.sql`, one named block each; the driver's errors become domain errors in
one place; a commit whose answer was lost is reported as unknown, never as a failure. The only room that knows
asyncpg. Refuses to know: Redis, HTTP, who asked.
"""
