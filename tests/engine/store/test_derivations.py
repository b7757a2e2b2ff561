"""Which image was made of which: what is noted counts, and what is damaged is none."""

from __future__ import annotations

import pytest

from cellblock_engine.oci.digest import Digest
from cellblock_engine.store import Store

BASE, OTHER, MADE = (Digest.of(bytes([number])) for number in range(3))


def test_what_was_noted_is_found_by_base_and_recipe(store: Store):
    with store.referencing():
        pass
    assert store.derivations.find(BASE, "ipykernel 1") is None
    store.derivations.note(BASE, "ipykernel 1", OTHER)
    store.derivations.note(BASE, "ipykernel 1", MADE)
    assert store.derivations.find(BASE, "ipykernel 1") == MADE
    assert store.derivations.find(BASE, "ipykernel 2") is None
    assert store.derivations.find(OTHER, "ipykernel 1") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"base": "%s", "recipe": "other", "derived": "%s"}',
        '{"base": "%s", "recipe": "ipykernel 1", "derived": "latest%.0s"}',
        '{"base": "%s", "recipe": "ipykernel 1", "derived": "%s"',
    ],
)
def test_a_damaged_note_is_none(store: Store, layout, text):
    with store.referencing():
        pass
    store.derivations.note(BASE, "ipykernel 1", MADE)
    (note,) = layout.derivations.iterdir()
    note.write_text(text % (BASE, MADE) if "%" in text else text)
    assert store.derivations.find(BASE, "ipykernel 1") is None
