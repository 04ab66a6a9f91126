"""Receivers of these tests listen on the loopback."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.config import Settings


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Endpoints may lie on this machine."""
    return replace(settings, webhook_allow_private=True)
