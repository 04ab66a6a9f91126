"""Clients of other people's services: the calendar, the CRM, the auth service, a mail server.

Promises: a call takes a bounded time and reads a bounded answer, follows no redirect and no proxy of the
environment, and comes back as a value that says what happened. Refuses to know: our appointments, events,
Redis and Postgres. Keys and bodies we send never stand in a log line or an error.
"""
