"""Books appointments without ever booking a coach twice. The life of a booking, folder by folder:

1. `api` reads the request: who asks, is it well formed. It knows neither Redis nor SQL.
2. `operations` says what is done, in order; `operations/book.py` is the whole of a booking in one file.
3. `domain` measures the wish against the calendar: the rules, as pure functions without any I/O.
4. `claims` takes the time in Redis: one script of `lua/` for everybody waiting decides who gets it.
5. `db` commits it to Postgres: one statement for everybody waiting, and a constraint that nobody gets round.
6. The client is answered 201, and `claims` settles it: the claim is dropped, its event enqueued, its answer kept.
7. `delivery` tells those who must hear of it, by `outside`, the clients of other people's services.
8. What a crash leaves between 4 and 6, `operations/reconcile.py` ends one way or the other.

Around it: `app.py` builds every object, `up.py` and `supervisor.py` run the processes, `embedded` brings
Postgres and Redis along for `booking up` and the tests, `mocks` plays the three outside services.
"""
