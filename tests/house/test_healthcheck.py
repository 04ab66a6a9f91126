"""The image's health check says healthy for a 200 only, and never hangs on a refused connection."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response({"/ready": 200, "/empty": 204}.get(self.path, 503))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        return


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def check(root: Path, url: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(root / "deploy" / "healthcheck.py"), url]
    return subprocess.run(command, check=False, capture_output=True)


@pytest.mark.parametrize(("path", "code"), [("/ready", 0), ("/starting", 1), ("/empty", 1)])
def test_only_a_200_is_healthy(root: Path, address: str, path: str, code: int) -> None:
    done = check(root, address + path)
    assert (done.returncode, done.stderr) == (code, b"")


def test_a_proxy_of_the_environment_is_not_asked(root: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert check(root, address + "/ready").returncode == 0


def test_nobody_listening_is_not_healthy_and_no_crash(root: Path) -> None:
    done = check(root, "http://127.0.0.1:1/ready")
    assert (done.returncode, done.stderr) == (1, b"")
