"""The pages that people read: their links lead somewhere, and no verb is forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellblock.verbs import VERBS
from cellblock.verbs.group import Group
from cellblock.verbs.own import OWN_VERBS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
_FENCED = re.compile(r"^```.*?^```", re.M | re.S)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return what the headings of a page are called in links, as GitHub does it."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_links_lead_to_pages_and_headings(page):
    for link in _LINK.findall(_FENCED.sub("", page.read_text())):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_modules_of_the_architecture_are_there():
    rooms = [ROOT / room for room in ("engine", "kernel", "magics")]
    modules = [f"/{path.relative_to(ROOT)}" for room in rooms for path in room.rglob("*.py")]
    named = re.findall(r"`([\w/]+\.py)`", (ROOT / "docs" / "architecture.md").read_text())
    assert len(named) > 50
    assert [each for each in named if not any(path.endswith(f"/{each}") for path in modules)] == []


def verbs() -> Iterator[str]:
    """Yield every verb, those of two words too, and those of a notebook's own container."""
    for name, entry in VERBS.items():
        if isinstance(entry, Group):
            aliases = {"kernel ls", "kernel rm"}
            yield from {f"{name} {second}" for second in entry.verbs} - aliases
        else:
            yield name
    yield from OWN_VERBS.keys() - {"limits"}  # README tells of it in words


def test_the_readme_has_all_verbs():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if "| `" in line]
    listed = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert set(verbs()) - listed == set()
