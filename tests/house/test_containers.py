"""The image and the compose file are valid, and use only commands, settings and files that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pathspec
import pytest
import yaml

from service.config import Settings

# Of the images, the tools and the shell; every other variable has to be one of the service's settings.
FOREIGN = {
    "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB",
    "PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PIP_DISABLE_PIP_VERSION_CHECK", "PIP_CACHE_DIR",
}  # fmt: skip
OUR_IMAGE = "booking-service:local"


@pytest.fixture(scope="module")
def compose(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def dockerfile(root: Path) -> str:
    return (root / "Dockerfile").read_text().replace("\\\n", " ")


def ours(compose: dict[str, Any]) -> dict[str, Any]:
    """The services that run our image, by name."""
    return {name: service for name, service in compose["services"].items() if service["image"] == OUR_IMAGE}


def booking_commands(compose: dict[str, Any], dockerfile: str) -> list[list[str]]:
    """Every `booking …` that the compose file or the image runs, as its words."""
    found: list[list[str]] = []
    for service in ours(compose).values():
        words: list[str] = service["command"]
        if words[:2] == ["sh", "-c"]:
            found += [part.split() for part in words[2].split(" && ")]
        else:
            found.append(words)
    for line in re.findall(r"^CMD (\[.*\])$", dockerfile, flags=re.MULTILINE):
        found.append(yaml.safe_load(line))
    return found


def test_the_compose_file_follows_the_compose_specification(root: Path) -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*checker, str(root / "docker-compose.yml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_passes_hadolint(root: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, root / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_exists_in_the_cli(compose: dict[str, Any], dockerfile: str) -> None:
    from service.cli import main

    commands = booking_commands(compose, dockerfile)
    assert len(commands) >= 8
    for words in commands:
        assert words[0] == "booking", words
        command: click.Command = main
        rest = words[1:]
        context = click.Context(command, info_name="booking")
        while isinstance(command, click.Group):
            _, found, rest = command.resolve_command(context, rest)
            assert found, words
            command = found
            context = click.Context(command, parent=context)
        command.make_context("booking", list(rest), parent=context.parent)


def test_every_variable_is_a_setting_and_holds_a_value_it_accepts(compose: dict[str, Any], dockerfile: str) -> None:
    known = {name for name, *_ in Settings.describe()}
    used: dict[str, dict[str, str]] = {"Dockerfile": {}}
    for body in re.findall(r"^ENV (.*)$", dockerfile, flags=re.MULTILINE):
        used["Dockerfile"] |= dict(re.findall(r"([A-Z_]+)=(\S+)", body))
    used |= {name: service.get("environment", {}) for name, service in compose["services"].items()}
    assert sum(map(len, used.values())) > 20
    for where, variables in used.items():
        assert set(variables) <= known | FOREIGN, where
        Settings.from_environment({key: str(value) for key, value in variables.items() if key in known})
    interpolated = re.findall(r"\$\{?([A-Z_]+)", dockerfile + yaml.safe_dump(compose))
    assert set(interpolated) <= known | FOREIGN


def test_our_image_is_built_once_and_fetched_by_nobody(compose: dict[str, Any]) -> None:
    builds = {name for name, service in compose["services"].items() if "build" in service}
    assert builds == {"migrate"}
    assert set(ours(compose)) == {"calendar", "crm", "auth", "migrate", "api", "worker"}
    assert {service["pull_policy"] for name, service in ours(compose).items() if name not in builds} == {"never"}


def test_the_outside_world_finds_what_the_contract_promises(compose: dict[str, Any]) -> None:
    services = compose["services"]
    published = {name: [p.rsplit(":", 1)[0] for p in s.get("ports", [])] for name, s in services.items()}
    assert published["api"] == ["127.0.0.1:3000"]
    assert [published[mock] for mock in ("calendar", "crm", "auth")] == [
        ["127.0.0.1:3001"],
        ["127.0.0.1:3002"],
        ["127.0.0.1:3003"],
    ]
    url = "postgresql://postgres:postgres123@postgres:5432/scheduling_db"
    assert {services[name]["environment"]["DATABASE_URL"] for name in ("migrate", "api", "worker")} == {url}
    assert "noeviction" in services["redis"]["command"]


def test_what_needs_a_server_waits_until_it_is_healthy(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "test" in services[other]["healthcheck"], f"{name} waits for {other}, which has no check"
    for name in ("api", "worker"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    for name, service in services.items():
        assert service["restart"], name


def test_everything_the_image_copies_reaches_the_builder(root: Path, dockerfile: str) -> None:
    ignored = pathspec.GitIgnoreSpec.from_lines((root / ".dockerignore").read_text().splitlines())
    sources: list[str] = []
    for body in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, flags=re.MULTILINE):
        sources += body.split()[:-1]
    assert {"service", "lua", "pyproject.toml", "requirements.txt"} <= set(sources)
    for source in sources:
        path = root / source
        assert path.exists(), source
        files = [path] if path.is_file() else [file for file in path.rglob("*.*") if "__pycache__" not in file.parts]
        assert not [f for f in files if f.is_file() and ignored.match_file(f.relative_to(root))], source
    assert ignored.match_file(".env")
    assert ignored.match_file("tests/conftest.py")


def test_the_image_runs_as_nobody_in_particular(dockerfile: str) -> None:
    final = dockerfile.rsplit("\nFROM ", 1)[1]
    users = re.findall(r"^USER (\S+)$", final, flags=re.MULTILINE)
    assert users
    assert users[-1] not in ("root", "0")
    assert re.search(r"^HEALTHCHECK ", final, flags=re.MULTILINE)


def test_every_image_is_pinned_to_a_version(compose: dict[str, Any], dockerfile: str) -> None:
    images = re.findall(r"^FROM (\S+)", dockerfile, flags=re.MULTILINE)
    images += [service["image"] for name, service in compose["services"].items() if name not in ours(compose)]
    for image in images:
        assert re.search(r":v?\d+\.\d+", image), image
