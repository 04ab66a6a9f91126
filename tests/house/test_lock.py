"""The lock files pin all that pyproject.toml asks for, and all that those packages ask for.

On every Python from 3.11.0 on: a dependency that only some of them need has to be named in pyproject.toml.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


def pins(file: Path) -> dict[str, Version]:
    """Package -> version of a lock file; every line that is no comment must be an exact pin."""
    found: dict[str, Version] = {}
    for line in file.read_text().splitlines():
        if not line or line.lstrip().startswith("#"):
            continue
        match = re.fullmatch(r"([a-z0-9-]+)==(\S+)", line)
        assert match, f"{file.name}: not an exact pin: {line}"
        found[match[1]] = Version(match[2])
    return found


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def runtime(root: Path) -> dict[str, Version]:
    return pins(root / "requirements.txt")


@pytest.fixture(scope="module")
def everything(root: Path) -> dict[str, Version]:
    return pins(root / "requirements-test.txt")


def test_the_runtime_lock_satisfies_every_dependency(project: dict[str, Any], runtime: dict[str, Version]) -> None:
    table = project["project"]
    for text in [*table["dependencies"], *table["optional-dependencies"]["embedded"]]:
        wanted = Requirement(text)
        assert runtime[canonicalize_name(wanted.name)] in wanted.specifier, text


def test_the_test_lock_satisfies_every_dependency_and_repeats_the_runtime_pins(
    project: dict[str, Any], runtime: dict[str, Version], everything: dict[str, Version]
) -> None:
    for text in [*project["project"]["optional-dependencies"]["test"], *project["build-system"]["requires"]]:
        wanted = Requirement(text)
        assert everything[canonicalize_name(wanted.name)] in wanted.specifier, text
    assert runtime.items() <= everything.items()


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_the_lock_is_complete_on(python: str, project: dict[str, Any], everything: dict[str, Version]) -> None:
    environment = {str(k): str(v) for k, v in default_environment().items()}
    environment |= {"python_version": python, "python_full_version": f"{python}.0"}
    extras: dict[str, set[str]] = {}
    tables = project["project"]
    for text in [*tables["dependencies"], *tables["optional-dependencies"]["test"]]:
        wanted = Requirement(text)
        extras[canonicalize_name(wanted.name)] = wanted.extras
    missing: list[str] = []
    for package in everything:
        for text in distribution(package).requires or []:
            needed = Requirement(text)
            asked = any(
                needed.marker is None or needed.marker.evaluate({**environment, "extra": extra})
                for extra in ["", *extras.get(package, ())]
            )
            if asked and canonicalize_name(needed.name) not in everything:
                missing.append(f"{package} needs {text}")
    assert missing == []
