"""Each script's header is a contract: its words are Python's words, and a test here shows each of them."""

from __future__ import annotations

import ast
from enum import StrEnum
from pathlib import Path

import pytest

from service.claims.script_files import script_folder
from service.claims.scripts import (
    ClaimOutcome,
    DeriveOutcome,
    PublishOutcome,
    ReleaseOutcome,
    Scripts,
    SettleOutcome,
    StillTakenOutcome,
)
from tests.lua.recording import headers

_ENUMS: list[tuple[type[StrEnum], tuple[str, ...]]] = [
    (ClaimOutcome, ("claim_slot",)),
    (StillTakenOutcome, ("still_taken",)),
    (SettleOutcome, ("settle_claim",)),
    (ReleaseOutcome, ("release_claim",)),
    (DeriveOutcome, ("derive_day", "repair_coach_day")),
    (PublishOutcome, ("publish_roster",)),
]
# What is left to do may shrink, move on and come back where Redis has no room for more.
_ABOVE_MAXMEMORY = {"finish_entry", "retry_later", "bury_entry", "move_due", "forget_consumers"}


def _shown() -> set[tuple[str, str]]:
    """(script, word) of every `outcome` marker in this folder."""
    found: set[tuple[str, str]] = set()
    for file in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "outcome":
                script, *words = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                found.update((str(script), str(word)) for word in words)
    return found


def test_every_outcome_of_every_script_is_shown_by_a_test_and_no_other_word_is() -> None:
    promised = {(script, word) for script, words in headers().items() for word in words}
    assert _shown() == promised


@pytest.mark.parametrize(("enum", "scripts"), _ENUMS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_words_of_an_enum_are_the_words_of_its_scripts(enum: type[StrEnum], scripts: tuple[str, ...]) -> None:
    assert {word.value for word in enum} == {word for script in scripts for word in headers()[script]}


@pytest.mark.parametrize("script", sorted(Scripts.METHODS))
def test_a_header_has_a_sentence_and_types_its_keys(script: str) -> None:
    lines = (script_folder() / f"{script}.lua").read_text().splitlines()
    assert lines[0] == ("#!lua flags=allow-oom" if script in _ABOVE_MAXMEMORY else "#!lua")
    assert lines[1].startswith("-- ")
    keys = [line for line in lines if line.startswith("-- KEYS[")]
    assert keys
    assert all(any(word in line for word in ("string", "hash", "stream", "zset", "set", "keys")) for line in keys)
    assert headers()[script], "no outcomes"
