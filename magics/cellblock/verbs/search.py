"""search: what a registry has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cellblock_engine import InvalidInput

from ..tables import Column, Table
from .common import JSON, NO_TRUNC, style
from .declaration import Argument, Call, Verb
from .limits import whole
from .outcome import Listing

if TYPE_CHECKING:
    from cellblock_engine import FoundImage

_DESCRIPTION = 45
_COLUMNS = (
    Column("NAME", lambda row, _: row.name),
    Column("DESCRIPTION", lambda row, view: _cut(row.description or "", wide=view.wide)),
    Column("STARS", lambda row, _: "" if row.stars is None else str(row.stars)),
    Column("OFFICIAL", lambda row, _: "[OK]" if row.official else ""),
)


@dataclass(frozen=True)
class _Filter:
    """What is to be left of what was found; None leaves all."""

    official: bool | None = None
    stars: int | None = None

    def takes(self, found: FoundImage) -> bool:
        """Tell whether an image stays. Raises InvalidInput where its registry does not tell."""
        for name, asked, told in (
            ("is-official", self.official, found.official),
            ("stars", self.stars, found.stars),
        ):
            if asked is not None and told is None:
                raise InvalidInput(
                    f"--filter {name} does not go with this registry, which tells names only"
                )
        return (self.official is None or found.official == self.official) and (
            self.stars is None or (found.stars or 0) >= self.stars
        )


def search(call: Call) -> Listing:
    """List what a registry has for a term, as the registry ranks it."""
    from cellblock_engine import FoundImage  # noqa: PLC0415 - brings the HTTP library

    given = call.arguments
    wanted = _filter(given.filter)
    found = call.engine.search(given.term, limit=given.limit)
    rows = tuple(each for each in found if wanted.takes(each))
    return Listing(Table(FoundImage, _COLUMNS, rows), style(call))


def _filter(words: Iterable[str]) -> _Filter:
    """Return what the words of ``--filter`` mean together. Raises InvalidInput."""
    asked = _Filter()
    for word in words:
        name, _, value = word.partition("=")
        if name == "is-official" and value in ("", "true", "false"):
            asked = replace(asked, official=value != "false")
        elif name == "stars" and value:
            asked = replace(asked, stars=max(whole(value), asked.stars or 0))
        else:
            raise InvalidInput(
                f"--filter {word!r} is not known: is-official, is-official=false or stars=N"
            )
    return asked


def _cut(words: str, *, wide: bool) -> str:
    return words if wide or len(words) <= _DESCRIPTION else f"{words[: _DESCRIPTION - 1]}…"


VERBS = (
    Verb(
        "search",
        "Search Docker Hub or another registry for images",
        (
            Argument(
                ("--limit",),
                "at most so many, up to 100 (25)",
                metavar="N",
                convert=whole,
                default=25,
            ),
            Argument(
                ("-f", "--filter"),
                "is-official, or stars=N: at least so many",
                "each",
                "FILTER",
                values=("is-official", "stars="),
            ),
            NO_TRUNC,
            JSON,
            Argument(("term",), "what to look for: python, quay.io/python", metavar="TERM"),
        ),
        search,
    ),
)
