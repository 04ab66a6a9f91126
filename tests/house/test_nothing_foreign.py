"""No file of the repository names a package index or a place on somebody's machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

# Hosts by what package indexes have in their names, and the options that set one.
INDEX = re.compile(
    r"://[\w.-]*(pypi|pythonhosted|npmjs|registry|mirror|artifactory|nexus)"
    r"|(?<![\w-])--?(extra-index-url|index-url|find-links|trusted-host)[ =]+\S"
)
# A home, a workplace or a scratch folder at the beginning of a path; `/api/work/1` is none.
MACHINE = re.compile(r"(?<![\w.:/}<-])/(root|home|Users|work|tmp|mnt)/\w")


@pytest.mark.parametrize(
    "line",
    [
        "https:" + "//pypi.example/simple",
        "resolved: https:" + "//registry.example/x.tgz",
        "pip install --index" + "-url somewhere",
        "-" + "-find-" + "links=/opt",
        "# via -r /" + "home/someone/requirements.in",
        'DIR="/' + 'tmp/thing"',
    ],
)
def test_the_search_finds_what_it_is_for(line: str) -> None:
    assert INDEX.search(line) or MACHINE.search(line)


@pytest.mark.parametrize(
    "line", ["--no-emit-index-url", "GET /api/work/1", "https:" + "//example.com/home/x", "/var/lib/booking"]
)
def test_the_search_leaves_other_things_alone(line: str) -> None:
    assert not INDEX.search(line)
    assert not MACHINE.search(line)


def test_no_file_names_an_index_or_a_machine_path(root: Path, own_files: list[Path]) -> None:
    assert len(own_files) > 50, "the walk found too little to mean anything"
    found: list[str] = []
    for file in own_files:
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            if INDEX.search(line) or MACHINE.search(line):
                found.append(f"{file.relative_to(root)}:{number}: {line.strip()[:100]}")
    assert found == []
