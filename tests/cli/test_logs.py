"""A log that cannot be written stops nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOES_ON = """
import logging
from service.logs import configure_logging, get_logger

configure_logging("info", {form!r}, "test")
for _ in range(1000):
    get_logger("it").info("said", of="what there is no room for")
    logging.getLogger("other").warning("said")
print("goes on", flush=True)
"""


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("where", ["full", "gone"])
def test_who_cannot_write_its_log_goes_on(form: str, where: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    errors = os.open("/dev/full", os.O_WRONLY) if where == "full" else os.dup(writing)
    os.close(writing)
    command = [sys.executable, "-c", GOES_ON.format(form=form)]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, check=False)
    finally:
        os.close(errors)
    assert done.stdout == b"goes on\n"
