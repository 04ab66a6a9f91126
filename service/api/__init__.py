"""The edge: parse, call one operation, render.

Promises: every answer that is not a success is problem+json; every keyed answer says where its rate limit
stands; nothing of the inside reaches a client. Refuses to know: Redis and SQL.
"""
