"""`python -m loadtest.bench.hello --port P --processes N`: what Sanic can answer when there is nothing to do.

The processes share one socket that their parent bound, on uvloop, without access log: as the API's do. All else is as
Sanic sets it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import Any

import click
from sanic import Request, Sanic
from sanic.config import Config
from sanic.response import HTTPResponse, text

BACKLOG = 4096


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--processes", type=int, default=2)
def main(port: int, processes: int) -> None:
    listening = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    listening.setblocking(False)
    children = [child for child in (_fork(listening) for _ in range(processes)) if child]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: [os.kill(child, signal.SIGTERM) for child in children])
    for child in children:
        os.waitpid(child, 0)


def _fork(listening: socket.socket) -> int:
    child = os.fork()
    if child == 0:
        import uvloop

        uvloop.run(_serve(listening))
        os._exit(0)
    return child


async def _serve(listening: socket.socket) -> None:
    config = Config(env_prefix="")
    config.update({"ACCESS_LOG": False, "MOTD": False, "OAS": False, "AUTO_EXTEND": False})
    app: Any = Sanic("hello", config=config, configure_logging=False)

    @app.get("/")
    async def hello(_request: Request) -> HTTPResponse:
        return text("hello")

    server: Any = await app.create_server(
        sock=listening, backlog=BACKLOG, return_asyncio_server=True, asyncio_server_kwargs={"start_serving": False}
    )
    await server.startup()
    await server.start_serving()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


if __name__ == "__main__":
    main()
