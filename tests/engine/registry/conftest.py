from __future__ import annotations

from collections.abc import Iterator

import pytest

from cellblock_engine.registry.patience import Patience
from support.fakeregistry import FakeRegistry, serving


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    """An honest registry until told otherwise."""
    with serving() as served:
        yield served


@pytest.fixture
def other() -> Iterator[FakeRegistry]:
    """A second server: another origin, for redirects and token realms."""
    with serving() as served:
        yield served


@pytest.fixture
def patience() -> Patience:
    """Retries that cost a test no time."""
    return Patience(
        attempts=3,
        backoff_s=0.001,
        longest_wait_s=0.05,
        connect_timeout_s=2,
        read_timeout_s=0.6,
        answer_timeout_s=0.8,
        slow_window_s=0.3,
        slow_bytes=1000,
    )
