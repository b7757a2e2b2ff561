"""Which line of the list of attacks a test proves, for the table in docs/security.md.

Tests named ``test_NN_...`` prove line NN; others say so by ``@pytest.mark.attack(NN, ...)``.
The lines and who made the attack go into the properties of pytest's JUnit report.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import pytest

_NUMBERED = re.compile(r"test_(\d\d)_")


def note(items: Iterable[pytest.Item]) -> None:
    """Mark the tests that are named by a number, and note every marked test's lines."""
    for item in items:
        named = _NUMBERED.match(item.name)
        if named is not None:
            item.add_marker(pytest.mark.attack(int(named[1])))
        lines = sorted({line for mark in item.iter_markers("attack") for line in mark.args})
        if lines:
            item.user_properties += [("attack", line) for line in lines]
            item.user_properties.append(("user", _user(item)))


def _user(item: pytest.Item) -> str:
    fixtures = getattr(item, "fixturenames", ())
    of_others = {"ordinary_user", "subordinate_user", "rootless_user"} & set(fixtures)
    return "root" if os.geteuid() == 0 and not of_others else "ordinary"
