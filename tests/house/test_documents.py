"""The documents say what is there: every route, setting, metric, alert and error code, and nothing that is not."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.api import problems
from service.app import Services
from service.assemble_api import build_api
from service.cli import main
from service.config import Settings
from service.metrics import Metrics
from service.outside.http import open_session

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SUFFIXES = r"py|lua|sql|yml|toml|md|sh|json|txt"
ADR_PARTS = ["Context", "Decision", "Consequences", "Alternatives"]


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table_rows(text: str) -> list[list[str]]:
    """The cells of every row of every table, heads and rulers included."""
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line[:1] == "|"]


def logged_events(root: Path) -> set[str]:
    """The sentences of the service's log lines."""
    call = re.compile(r"(?:log\.\w+|get_logger\(\"\w+\"\)\.\w+|_say)\(\s*\"([\w -]+)\"")
    return {event for file in (root / "service").rglob("*.py") for event in call.findall(file.read_text())}


@pytest.fixture(scope="module")
def documents(root: Path, own_files: list[Path]) -> dict[Path, str]:
    """Every Markdown file of the repository, by its path from the top."""
    found = {file.relative_to(root): file.read_text() for file in own_files if file.suffix == ".md"}
    wanted = {"README.md", "SOLUTION.md", "API.md", "MONITORING.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert wanted <= {str(path) for path in found}
    return found


@pytest.fixture(scope="module")
def spoken(documents: dict[Path, str]) -> list[tuple[Path, str]]:
    """What the documents say in code: inline and in blocks."""
    found: list[tuple[Path, str]] = []
    for path, text in documents.items():
        found += [(path, code) for code in CODE.findall(FENCE.sub("", text))]
        blocks = [*FENCE.findall(text), *re.findall(r"^    \S.*$", text, flags=re.MULTILINE)]
        found += [(path, line.strip()) for block in blocks for line in block.splitlines()]
    return found


async def test_api_md_lists_the_routes_of_the_application_and_no_other(root: Path, services: Services) -> None:
    async with open_session() as session:
        _, routes = build_api(services, session)
    there = [f"{route.method} {route.path.replace('<', '{').replace('>', '}')}" for route in routes]
    told = re.findall(r"^### `([A-Z]+ /\S*)`$", (root / "API.md").read_text(), flags=re.MULTILINE)
    assert sorted(told) == sorted(there)


async def test_api_md_names_the_scope_and_the_parameters_of_each_route(root: Path, services: Services) -> None:
    async with open_session() as session:
        _, routes = build_api(services, session)
    chapters = re.split(r"^##+ ", (root / "API.md").read_text(), flags=re.MULTILINE)
    for route in routes:
        title = f"`{route.method} {route.path.replace('<', '{').replace('>', '}')}`"
        (chapter,) = [chapter for chapter in chapters if chapter.startswith(f"{title}\n")]
        named = re.findall(r"[Ss]cope `(\w+)`", chapter)
        assert named == ([] if route.scope is None else [route.scope]), title
        assert {name for name, _ in route.parameters} <= set(CODE.findall(FENCE.sub("", chapter))), title
        if route.body is not None and route.body_required:
            fields = {name for name in route.body.__struct_fields__ if name != "event_type"}  # type: ignore[attr-defined]
            assert fields <= set(re.findall(r"`(\w+)`", chapter)), title


def test_api_md_lists_the_error_codes_with_their_status(root: Path) -> None:
    there = {(500, "INTERNAL_ERROR"), *problems._TABLE.values(), *problems._BY_STATUS.items()}
    assert {code for _, code in there} == problems.ERROR_CODES
    rows = [row for row in table_rows((root / "API.md").read_text()) if re.fullmatch(r"\d{3}", row[0])]
    assert sorted((int(row[0]), row[1].strip("`")) for row in rows) == sorted(there)


def test_solution_md_lists_the_settings_with_default_unit_and_sentence(root: Path) -> None:
    chapter = (root / "SOLUTION.md").read_text().split("\n### Settings\n")[1].split("\n### ")[0]
    rows = [row for row in table_rows(chapter) if row[0].startswith("`")]
    told = [(name.strip("`"), default.strip("`"), unit, about) for name, default, unit, about in rows]
    assert told == Settings.describe()


def test_every_setting_a_document_names_exists(spoken: list[tuple[Path, str]]) -> None:
    known = {name for name, *_ in Settings.describe()}
    like_one = re.compile(r"[A-Z]+(?:_[A-Z]+)+")
    others = problems.ERROR_CODES | {"APPOINTMENT_ID"}
    unknown = [(path, code) for path, code in spoken if like_one.fullmatch(code) and code not in known | others]
    assert unknown == []


def test_monitoring_md_lists_the_metrics_with_their_labels(root: Path) -> None:
    there: dict[str, set[str]] = {}
    registry = CollectorRegistry()
    for series in vars(Metrics(registry)).values():
        if isinstance(series, (Counter, Gauge, Histogram)):
            (described,) = series.describe()
            name = f"{described.name}_total" if described.type == "counter" else described.name
            there[name] = set(series._labelnames)
    rows = [row for row in table_rows((root / "MONITORING.md").read_text()) if row[0].startswith("`booking_")]
    told = {row[0].strip("`"): {label for label in row[1].split(", ") if label} for row in rows}
    assert len(rows) == len(told)
    assert told == there
    assert all(row[2] and row[3] for row in rows), "each says what it means and what to do first"


def test_monitoring_md_explains_the_alerts_with_their_severity(root: Path) -> None:
    groups = yaml.safe_load((root / "deploy" / "alerts.yml").read_text())["groups"]
    there = {rule["alert"]: rule["labels"]["severity"] for group in groups for rule in group["rules"]}
    chapter = (root / "MONITORING.md").read_text().split("\n## Alerts\n")[1].split("\n## ")[0]
    told = dict(re.findall(r"^### (\w+)\n\*(\w+)\.\* ", chapter, flags=re.MULTILINE))
    assert told == there


def test_monitoring_md_explains_every_log_line_and_no_other(root: Path) -> None:
    chapter = (root / "MONITORING.md").read_text().split("\n## Log lines\n")[1].split("\n## ")[0]
    rows = [row for row in table_rows(chapter) if row[0].startswith("`")]
    told = {event for row in rows for event in CODE.findall(row[0])}
    assert len(told) > 80
    assert told == logged_events(root)


def test_every_relative_link_leads_somewhere(root: Path, documents: dict[Path, str]) -> None:
    checked, broken = 0, list[str]()
    for path, text in documents.items():
        for target in LINK.findall(FENCE.sub("", text)):
            if re.match(r"[a-z]+:", target):
                continue
            checked += 1
            place, _, anchor = target.partition("#")
            file = (root / path.parent / place) if place else root / path
            if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
                broken.append(f"{path}: {target}")
    assert broken == []
    assert checked > 40


def test_every_file_a_document_names_exists(root: Path, spoken: list[tuple[Path, str]]) -> None:
    folders = "|".join(sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."))
    like_one = re.compile(rf"(?:{folders})/[\w./-]*(?:\.(?:{SUFFIXES})|/)")
    named = [(path, code) for path, code in spoken if like_one.fullmatch(code)]
    assert len(named) > 20
    assert [(path, code) for path, code in named if not (root / code).exists()] == []


def test_every_command_a_document_names_exists(root: Path, spoken: list[tuple[Path, str]]) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (root / "Makefile").read_text(), flags=re.MULTILINE))
    made = {word for _, code in spoken for word in re.findall(r"(?<![\w-])make ([a-z][a-z-]+)", code)}
    assert {"run", "test", "lint", "help"} <= made
    assert made - targets == set()
    calls = re.compile(r"\bbooking ([a-z]+(?: [a-z]+)?)")
    logged = logged_events(root)  # "booking not settled" is a log line
    said = [code for _, code in spoken if code not in logged]
    called = {tuple(words.split()) for code in said for words in calls.findall(code)}
    assert len(called) >= 6
    for words in called:
        command = main.get_command(click.Context(main), words[0])
        assert command is not None, words
        if isinstance(command, click.Group) and len(words) > 1:
            assert command.get_command(click.Context(command), words[1]) is not None, words


def test_every_decision_is_listed_and_has_its_parts(root: Path) -> None:
    folder = root / "docs" / "adr"
    records = sorted(file.name for file in folder.glob("[0-9]*.md"))
    assert [int(name[:4]) for name in records] == list(range(1, len(records) + 1))
    assert re.findall(r"^\| \[\d{4}\]\(([^)]+)\)", (folder / "README.md").read_text(), flags=re.MULTILINE) == records
    for name in records:
        text = (folder / name).read_text()
        assert text.startswith(f"# {int(name[:4])}. "), name
        assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == ADR_PARTS, name
        assert re.search(r"^Status: (accepted|replaced by \[)", text, flags=re.MULTILINE), name


def test_the_package_names_every_folder(root: Path) -> None:
    told = set(re.findall(r"`(\w+)`", (root / "service" / "__init__.py").read_text()))
    folders = {entry.name for entry in (root / "service").iterdir() if (entry / "__init__.py").exists()}
    assert folders <= told
