"""Where the Lua files stand: at the top of a checkout, or inside the package of an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def script_folder() -> Path:
    """The folder that holds the service's `*.lua` files.

    Raises FileNotFoundError when neither place has any: then the installation is broken, and a
    service without its scripts must not start.
    """
    for folder in (_PACKAGE / "lua_scripts", _PACKAGE.parent / "lua"):
        if any(folder.glob("*.lua")):
            return folder
    raise FileNotFoundError(f"no Lua scripts beside or inside {_PACKAGE}")
