"""Resolves names that clients of ours chose, in threads of their own.

A resolver of the system blocks a thread for as long as a name server keeps it waiting, and who chooses the name
chooses the name server. The loop's own few threads must not be the ones that wait.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from aiohttp.abc import AbstractResolver, ResolveResult

_AT_ONCE = 64


class ForeignResolver(AbstractResolver):
    """Asks the system, `_AT_ONCE` names at a time. Raises OSError."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="resolver")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name, each as a literal."""
        ask = partial(
            socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Ask no more; who waits is left waiting."""
        self._threads.shutdown(wait=False, cancel_futures=True)
