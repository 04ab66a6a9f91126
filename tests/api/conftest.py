"""One whole system for most tests of the API; what kills or restarts one has its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.api.client import Client, open_client
from tests.api.stack import RATE_WINDOW_MS, Stack, running
from tests.servers import folder_of_its_own

_SHOWN = 4_000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the systems of a failed test wrote."""
    report = yield
    if report.failed:
        for name, value in item.funcargs.items():
            if isinstance(value, Stack):
                report.sections.append((f"log of {name}", value.log()[-_SHOWN:]))
    return report


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack() -> AsyncIterator[Stack]:
    """The system most tests share."""
    with folder_of_its_own() as folder:
        async with running(folder, RATE_LIMIT_WINDOW_MS=RATE_WINDOW_MS) as started:
            yield started


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def free_key(stack: Stack) -> str:
    """A key of the shared system without a limit."""
    return await stack.add_key("read", "write")


@pytest.fixture
async def api(stack: Stack, free_key: str) -> AsyncIterator[Client]:
    """A client of the shared system that is not limited."""
    async with open_client(stack.url, free_key) as client:
        yield client


@pytest.fixture
def folder() -> Generator[Path, Any, None]:
    """A folder for a system of the test's own."""
    with folder_of_its_own() as made:
        yield made
