"""What every process of ours does before its work."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

_FEW = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (256, r.getrlimit(r.RLIMIT_NOFILE)[1]))"
_SAY = "print(r.getrlimit(r.RLIMIT_NOFILE)[0])"
_RUN = "async def run(stop): " + _SAY
_MOST = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("from service.processes import allow_open_files; allow_open_files(2000); " + _SAY, 2000),
        ("from service.processes import until_told\n" + _RUN + "\nuntil_told(run)", 65_536),
    ],
)
def test_as_many_files_may_be_open_as_clients_come(words: str, wanted: int) -> None:
    """Asked in a process of its own, which begins with what a shell allows."""
    said = subprocess.run([sys.executable, "-c", f"{_FEW}\n{words}"], capture_output=True, text=True, check=True)
    assert int(said.stdout) == (wanted if _MOST == resource.RLIM_INFINITY else min(wanted, _MOST))
