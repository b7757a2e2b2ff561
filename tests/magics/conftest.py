"""Fixtures of the face's tests."""

from __future__ import annotations

import pytest

from support.fake_engine import FakeEngine


@pytest.fixture
def fake() -> FakeEngine:
    return FakeEngine()
