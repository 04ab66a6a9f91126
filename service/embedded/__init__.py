"""The servers that come as wheels, run as children of our own: for `booking up` and for the tests.

Promises: what was written stays (fsync, append-only file); what an earlier, killed run left is stopped first;
nothing outlives the process that started it; only private unix sockets are opened unless a port is asked for.
Refuses to know: what is stored in the servers, and everything of the service except its errors and logs.
Linux only: it leans on /proc and on the kernel's death signal.
"""

from service.embedded.postgres import EmbeddedPostgres
from service.embedded.redis import EmbeddedRedis
from service.embedded.running import DataDirLock, RunFile

__all__ = ["DataDirLock", "EmbeddedPostgres", "EmbeddedRedis", "RunFile"]
