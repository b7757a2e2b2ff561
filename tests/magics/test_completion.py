"""What Tab offers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cellblock.completion import complete
from cellblock.verbs import VERBS
from cellblock_engine import StoreError


@dataclass
class Event:
    text_until_cursor: str
    symbol: str
    line: str = ""


def offered(fake, line: str, symbol: str | None = None) -> list[str]:
    word = line.rsplit(" ", maxsplit=1)[-1] if symbol is None else symbol
    return complete(Event(line, word), lambda: fake)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("%container ", sorted(VERBS)),
        ("%container im", ["image", "images", "import"]),
        ("%container sys", ["system"]),
        ("%container system i", ["info"]),
        ("%container system info --", ["--help", "--json"]),
        ("%container system nope --", []),
        ("%%container system ", []),
        ("%%container ", ["exec", "run"]),
        ("%%container ps ", []),
        ("%container nope ", []),
        ("%container run --mem", ["--memory", "--memory-reservation", "--memory-swap"]),
        ("%%container run --det", []),
        ("%container run --network ", ["host", "none"]),
        ("%container run --memory ", []),
        ("%container run --memory 64m p", ["python:3.12-slim"]),
        ("%container run --rm ", ["host", "python:3.12-slim"]),
        ("%container run python:3.12-slim ", []),
        ("%container rm up ", ["gone", "up"]),
        ("%container logs -n 3 g", ["gone"]),
        ("%container logs up ", []),
        ("%container ps ", []),
        ("%container history --", ["--help", "--json", "--no-trunc", "--plot", "--quiet"]),
        ("%container history ", ["host", "python:3.12-slim"]),
        ("%container packages python:3.12-slim ", ["host", "python:3.12-slim"]),
        ("%container diff ", ["gone", "host", "python:3.12-slim", "up"]),
        ("%container inspect u", ["up"]),
        ("%container commit --mess", ["--message"]),
        ("%container commit --message ", []),
        ("%container commit -m why u", ["up"]),
        ("%container commit up ", []),
        ("%container lock --image p", ["python:3.12-slim"]),
        ("%container lock --image host --ch", ["--check"]),
        ("%container freeze --ex", ["--explain"]),
        ("%container search --filter ", ["is-official", "stars="]),
    ],
)
def test_what_fits_is_offered(fake, line, found):
    assert offered(fake, line) == found


def test_what_ipython_splits_off_is_not_repeated(fake):
    assert offered(fake, "%container run python:3", "3") == ["3.12-slim"]


def test_an_engine_that_fails_offers_nothing():
    def broken():
        raise StoreError("no store")

    assert complete(Event("%container rm ", ""), broken) == []
