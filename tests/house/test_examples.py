"""What we show people works: the README's first hour and every example, as they stand, against a running service."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.embedded.conftest import folder_of_its_own, processes_on, wait_for
from tests.servers import free_port

JSON_LINE = re.compile(r"^\{.*\}$", re.MULTILINE)
READY_WITHIN_S, STOP_WITHIN_S = 40.0, 12.0
WISH = {"calendar_id": "cal-1", "start_time": "2030-01-07T15:00:00Z", "contact_email": "ada@example.com"}


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The address of a `booking up` of its own, with mocks that fail as ever but answer at once."""
    with folder_of_its_own() as folder:
        port = free_port()
        # Ours alone: a DATABASE_URL or a `.env` of whoever runs the tests must not lead elsewhere.
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        environment |= {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "DATA_DIR": str(folder / "data"),
            "PORT": str(port),
            **{f"{name}_PORT": str(free_port()) for name in ("CALENDAR", "CRM", "AUTH")},
            "WORKERS": "1",
            "MOCK_SEED": "7",
            "MOCK_DELAY_SCALE": "0",
        }
        log = folder / "log"
        with log.open("wb") as output:
            up = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "up"],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for(lambda: "\nReady." in log.read_text() or up.poll() is not None, READY_WITHIN_S)
            assert up.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(STOP_WITHIN_S)
        assert processes_on(folder) == []


@pytest.fixture
def run(service: str, root: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs a command as a person would, in a folder of its own; its output, which must come without complaint."""

    def run(*words: str | Path) -> str:
        done = subprocess.run(
            [*words],
            cwd=tmp_path,
            env={**os.environ, "BASE": service, "KEY": "dev-key-456"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        return done.stdout

    return run


def documents_in(text: str) -> list[Any]:
    """Every JSON document of an output, among whatever else is printed; a document begins at a line's beginning."""
    decoder, found, at = json.JSONDecoder(), list[Any](), 0
    while (begin := re.compile(r"^\{", re.MULTILINE).search(text, at)) is not None:
        try:
            document, at = decoder.raw_decode(text, begin.start())
        except json.JSONDecodeError:  # shown in part
            at = begin.end()
        else:
            found.append(document)
    return found


def test_the_readmes_first_hour_works_as_it_stands(run: Callable[..., str], root: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```$", (root / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    out = documents_in(run("bash", "-eu", "-c", block))
    booked, looked_at, cancelled, received, event, spread = out
    assert (booked["status"], looked_at) == ("scheduled", booked)
    assert (cancelled["appointment_id"], cancelled["status"]) == (booked["appointment_id"], "cancelled")
    assert received == {"received": True, "event_id": event["event_id"]}
    assert event["state"] in ("received", "processed")
    assert spread["total_appointments"] >= 1
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"


def test_the_shell_examples_do_what_they_say(run: Callable[..., str], root: Path) -> None:
    shown = run(root / "examples" / "availability.sh")
    assert documents_in(shown)[0]["timezone"] == "America/New_York"

    booked = run(root / "examples" / "book.sh", "grace@example.com")
    first, second = documents_in(booked)
    assert first == second
    assert first["contact_email"] == "grace@example.com"
    assert booked.count("Idempotent-Replayed: true") == 1
    appointment = first["appointment_id"]

    looked = run(root / "examples" / "look.sh", appointment)
    assert documents_in(looked) == [first]
    assert looked.splitlines()[-1] == '304 with If-None-Match: "v1"'

    one, again, event = documents_in(run(root / "examples" / "calendar_event.sh", appointment))
    assert one == again == {"received": True, "event_id": event["event_id"]}
    assert (event["state"], event["attempts"]) == ("processed", 1)

    cancelled, still = documents_in(run(root / "examples" / "cancel.sh", appointment, "too early"))
    assert cancelled == still
    assert (cancelled["status"], cancelled["version"]) == ("cancelled", 3)
    assert cancelled["confirmed_at"] is not None

    (spread,) = documents_in(run(root / "examples" / "distribution.sh"))
    assert [row["coach_id"] for row in spread["distribution"]] == [f"coach-{n}" for n in (1, 2, 3, 5, 6)]

    refusals = [problem["error"] for problem in documents_in(run(root / "examples" / "refusals.sh"))]
    invalid = "VALIDATION_ERROR"
    assert refusals == ["AUTHENTICATION_FAILED", invalid, "NOT_FOUND", invalid, "UNSUPPORTED_MEDIA_TYPE"]


def test_the_python_client_books_the_first_free_start(run: Callable[..., str], root: Path) -> None:
    out = run(sys.executable, root / "examples" / "book_with_retries.py", "cal-2", "eve@example.com")
    assert json.loads(out)["status"] == "scheduled"


def test_the_python_client_takes_the_next_start_when_somebody_was_faster(service: str, client: ModuleType) -> None:
    real = client.BookingClient(service, "dev-key-456")
    start, following = real.free_starts("cal-3")[:2]
    wish = {"calendar_id": "cal-3", "start_time": start, "contact_email": "x@example.com"}
    path = f"/api/availability?calendar_id=cal-3&days=1&from={start}&group_by=start&include=coaches"
    for coach_id in real._call("GET", path)[2]["slots"][0]["coach_ids"]:
        real.book({**wish, "coach_id": coach_id}, f"faster-{coach_id}")
    with pytest.raises(client.Refused, match="SLOT_UNAVAILABLE"):
        real.book(wish, "too-late")
    real.free_starts = lambda _: [start, following]  # as they were listed before
    assert client.book_first_free(real, "cal-3", "eve@example.com")["start_time"] == following


def test_every_example_is_listed_and_can_be_run(root: Path) -> None:
    folder = root / "examples"
    files = {file.name for file in folder.iterdir() if file.suffix in (".sh", ".py")}
    assert set(re.findall(r"^\| \[`([\w.]+)`\]", (folder / "README.md").read_text(), flags=re.MULTILINE)) == files
    assert [name for name in files if not os.access(folder / name, os.X_OK)] == []


@pytest.fixture(scope="module")
def client(root: Path) -> ModuleType:
    """The Python example as a module."""
    spec = importlib.util.spec_from_file_location("book_with_retries", root / "examples" / "book_with_retries.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Troubled:
    """A service that answers what it is told to, in order, and remembers what it was asked. None: hangs up."""

    def __init__(self, *answers: tuple[int, dict[str, str], Any] | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str | None, Any]] = []
        troubled = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                troubled.asked.append((self.headers.get("Idempotency-Key"), json.loads(body)))
                answer = troubled.answers.pop(0)
                if answer is None:
                    return
                status, headers, shown = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(shown.encode() if isinstance(shown, str) else json.dumps(shown).encode())

            def log_message(self, *_: object) -> None:
                """Nothing: the test's output is not a log."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Troubled:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def refusal(status: int, error: str, **headers: str) -> tuple[int, dict[str, str], dict[str, str]]:
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, {"error": error, "message": "no"}


BOOKED = (201, {}, {"appointment_id": "a", "status": "scheduled"})


def test_the_client_asks_again_under_the_same_key_until_it_is_decided(client: ModuleType) -> None:
    waits: list[float] = []
    undecided = [
        refusal(503, "SERVICE_UNAVAILABLE", Retry_After="1"),
        refusal(503, "OUTCOME_UNKNOWN", Retry_After="2"),
        None,
        refusal(409, "IDEMPOTENCY_IN_PROGRESS", Retry_After="3"),
        refusal(429, "RATE_LIMIT_EXCEEDED", Retry_After="41"),
        (503, {}, "<html>the proxy's own words</html>"),
    ]
    with Troubled(*undecided, BOOKED) as troubled:
        booked = client.BookingClient(troubled.url, "k", sleep=waits.append).book(WISH, "one-key")
    assert booked["status"] == "scheduled"
    assert troubled.asked == [("one-key", WISH)] * 7
    assert len(waits) == 6
    for waited, asked_for in zip(waits, [1, 2, 0, 3, 41, 0], strict=True):
        assert asked_for <= waited <= max(asked_for, client.LONGEST_PAUSE_S)


@pytest.mark.parametrize(
    "final",
    [
        refusal(400, "VALIDATION_ERROR"),
        refusal(401, "AUTHENTICATION_FAILED"),
        refusal(409, "SLOT_UNAVAILABLE"),
        refusal(422, "IDEMPOTENCY_KEY_REUSED"),
        refusal(500, "INTERNAL_ERROR"),
    ],
)
def test_the_client_takes_a_final_answer_for_final(
    client: ModuleType, final: tuple[int, dict[str, str], dict[str, str]]
) -> None:
    with Troubled(final) as troubled, pytest.raises(client.Refused, match=final[2]["error"]):
        client.BookingClient(troubled.url, "k", sleep=pytest.fail).book(WISH, "one-key")
    assert len(troubled.asked) == 1


def test_the_client_gives_up_rather_than_wait_longer_than_it_may(client: ModuleType) -> None:
    with (
        Troubled(refusal(429, "RATE_LIMIT_EXCEEDED", Retry_After="60")) as troubled,
        pytest.raises(client.NoAnswerError, match="429 RATE_LIMIT_EXCEEDED after 1 attempts"),
    ):
        client.BookingClient(troubled.url, "k", patience_s=30, sleep=pytest.fail).book(WISH, "one-key")


def test_nobody_listening_is_no_answer(client: ModuleType) -> None:
    waits: list[float] = []
    lost = client.BookingClient(f"http://127.0.0.1:{free_port()}", "k", patience_s=0.0, sleep=waits.append)
    with pytest.raises(client.NoAnswerError, match=r"no answer .* after 1 attempts"):
        lost.book(WISH, "one-key")
