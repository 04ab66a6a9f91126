"""The one factory of Redis clients, with the settings that keep a fault short and a reply with its asker.

RESP2 on purpose: with RESP3 redis-py switches maintenance notifications on and the pool then skips its check
for unread replies, which once gave the next caller somebody else's data. Retries are ours, not the client's:
a script whose reply was lost must not run again unnoticed.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from service.errors import ConfigurationError

REQUEST_TIMEOUT_S = 0.25


def connect(url: str, *, timeout_s: float | None = REQUEST_TIMEOUT_S, connections: int = 50) -> Redis:
    """A client that gives up after `timeout_s` (None: waits, for blocking reads) and never retries by itself."""
    options: dict[str, Any] = {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "socket_timeout": timeout_s,
        "max_connections": connections,
        # A caller beyond the last connection waits for one as long as it would wait for an answer.
        "timeout": timeout_s or REQUEST_TIMEOUT_S,
        "decode_responses": False,
    }
    if not url.startswith("unix"):
        options["socket_connect_timeout"] = REQUEST_TIMEOUT_S
    pool: Any = BlockingConnectionPool  # redis-py leaves from_url's options untyped
    return Redis.from_pool(pool.from_url(url, **options))


async def refuse_eviction(redis: Any) -> str | None:
    """Raise ConfigurationError when the server evicts keys, for an evicted claim is a double booking's first half.

    Returns a warning for the log when the server does not let us ask.
    """
    try:
        answer: Any = await redis.config_get("maxmemory-policy", "maxmemory")
    except Exception as problem:  # CONFIG is forbidden or renamed on some hosted servers
        return f"cannot check maxmemory-policy: {type(problem).__name__}"
    values = {_text(name): _text(value) for name, value in dict(answer).items()}
    policy, limit = values.get("maxmemory-policy", ""), values.get("maxmemory", "0")
    if policy != "noeviction" and limit != "0":
        raise ConfigurationError(f"REDIS_URL: the server evicts keys (maxmemory-policy {policy}); set noeviction")
    return None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
