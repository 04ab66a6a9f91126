"""`make` alone tells everything it can do, and a recipe that hides a failure is not possible."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


def make(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=root,
        env={**env, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def targets(root: Path) -> list[str]:
    return re.findall(r"^([a-z][a-z-]*):", (root / "Makefile").read_text(), flags=re.MULTILINE)


def test_help_is_the_default_and_lists_every_target(root: Path) -> None:
    shown = make(root)
    assert shown.returncode == 0, shown.stderr
    listed = re.findall(r"^  make (\S+)", shown.stdout, flags=re.MULTILINE)
    assert listed == targets(root)
    assert {"help", "run", "test", "lint", "lock", "clean"} <= set(listed)


def test_every_target_is_phony(root: Path) -> None:
    declared = re.search(r"^\.PHONY: (.*)$", (root / "Makefile").read_text(), flags=re.MULTILINE)
    assert declared
    assert set(declared[1].split()) == set(targets(root))


def test_run_becomes_booking_itself_so_that_signals_reach_it(root: Path) -> None:
    recipe = re.search(r"^run:.*\n((?:\t.*\n)+)", (root / "Makefile").read_text(), flags=re.MULTILINE)
    assert recipe
    assert recipe[1] == "\t@exec .venv/bin/booking up\n"


def test_a_host_that_is_given_to_make_is_where_the_load_goes_or_is_refused(root: Path) -> None:
    """Some shells have a HOST of their own, the machine's name, which is not meant."""
    up_to_date = ("--dry-run", "--old-file=.venv/.test", "load")
    assert '--host "localhost:3000"' in make(root, *up_to_date, "HOST=localhost:3000").stdout
    assert '--host "http://other"' in make(root, *up_to_date, HOST="http://other").stdout
    assert "--host" not in make(root, *up_to_date, HOST="this-machine").stdout


def test_a_python_without_venv_is_told_what_to_install(root: Path, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((root / "Makefile").read_text())
    python = tmp_path / "python-without-venv"
    python.write_text(f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    refused = make(tmp_path, ".venv/bin/python", f"PYTHON={python}")
    assert refused.returncode != 0
    assert "python3-venv" in refused.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("usable", [True, False])
def test_the_python_of_the_distribution_is_taken_where_it_can_be_used(root: Path, tmp_path: Path, usable: bool) -> None:
    (tmp_path / "Makefile").write_text((root / "Makefile").read_text())
    python = tmp_path / "python-of-the-distribution"
    python.write_text(f"#!/bin/sh\nexit {int(not usable)}\n")
    python.chmod(0o755)
    would = make(tmp_path, "--dry-run", ".venv/bin/python", f"SYSTEM_PYTHON={python}")
    assert would.returncode == 0, would.stderr
    assert (str(python) if usable else "python3") + " -m venv .venv" in would.stdout.splitlines()


def test_an_old_python_is_told_so(root: Path, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((root / "Makefile").read_text())
    python = tmp_path / "python-too-old"
    python.write_text('#!/bin/sh\ncase "$2" in *version_info*) exit 1;; esac\n')
    python.chmod(0o755)
    refused = make(tmp_path, ".venv/bin/python", f"PYTHON={python}")
    assert refused.returncode != 0
    assert "3.11" in refused.stderr
