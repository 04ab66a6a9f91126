"""Each mutant still is one: the text it changes is there once, and the change is in its copy.

That each is noticed by its check is what `python -m tests.faults.mutants` shows; it takes minutes.
"""

from __future__ import annotations

import ast
from pathlib import Path
from random import Random

import pytest

from tests.faults.checks import CHECKS
from tests.faults.mutants import LAST_MIGRATION, MUTANTS, ROOT, Edit, Mutant, make
from tests.faults.mutants_run import rounds_of


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_the_copy_differs_by_the_mutation_alone(mutant: Mutant, tmp_path: Path) -> None:
    make(mutant, tmp_path)
    changed = {
        str(path.relative_to(tmp_path))
        for folder in ("service", "lua")
        for path in (tmp_path / folder).rglob("*.*")
        if path.is_file()
        and (not (one := ROOT / path.relative_to(tmp_path)).exists() or one.read_bytes() != path.read_bytes())
    }
    assert changed == {edit.path for edit in mutant.edits} | ({LAST_MIGRATION} if mutant.sql else set())
    for path in changed:
        if path.endswith(".py"):
            asked_in_vain = missing((tmp_path / path).read_text()) - missing((ROOT / path).read_text())
            assert asked_in_vain == set(), "it would fail by itself, and not by what it breaks"
    assert mutant.check in CHECKS
    assert [one.faults[0].fault.name for one in rounds_of(mutant, Random(1))] == list(mutant.faults)


def missing(source: str) -> set[str]:
    """What classes ask of `self` and do not give it in their own text. Raises SyntaxError."""
    found: set[str] = set()
    for one in ast.walk(ast.parse(source)):
        if isinstance(one, ast.ClassDef):
            of_self = [n for n in ast.walk(one) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "self"]
            given = {n.attr for n in of_self if isinstance(n.ctx, ast.Store)}
            given |= {n.name for n in one.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
            found |= {n.attr for n in of_self} - given
    return found


def test_a_text_that_is_not_there_is_no_mutant(tmp_path: Path) -> None:
    mutant = Mutant("none", "", (Edit("lua/claim_slot.lua", "no such text", ""),), (), "C1")
    with pytest.raises(AssertionError, match="has 0 of 'no such text'"):
        make(mutant, tmp_path)
