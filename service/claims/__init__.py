"""Redis as the gate: who may have a time is decided here, atomically, before Postgres is asked to record it.

Promises: every method is one atomic script or one read; replies become Python values on the next line;
outcome words are the same in Lua, here, in logs and in metrics. Refuses to know: SQL, HTTP, what a request was.
Redis may be lost at any moment; nothing here is the only copy of anything.
"""
