"""Where a commit comes from, as labels of its image's config tell it; no I/O.

`cellblock.provenance.N` is about the step N of the image's history, counted from 0, as JSON. Images
that are made of an image have its history and its labels, so what was said stays true there. OCI's
own `org.opencontainers.image.base.name` and `.digest` (image-spec, annotations.md) are about the
last step. All of it is the word of whoever made the image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from ..errors import InvalidAnswer, InvalidDigest
from ..packages.package import KINDS, PackageChange
from .config import PROVENANCE_LABEL, ImageDocument
from .digest import Digest
from .jsonobject import JsonObject

_BASE_NAME = "org.opencontainers.image.base.name"
_BASE_DIGEST = "org.opencontainers.image.base.digest"
MAX_BYTES = 256 << 10
"""What one step may say, as it is in the config."""
MAX_CELLS = 1000
_MAX_PACKAGES = 1000
_LONGEST_WORD = 255
_SHOWN = 300
_MAX_NUMBER = 10**9
_COUNT_BYTES, _COMMA_BYTES = 64, 2  # of the list of cells, and of the number of older ones

Omission = Literal["secret", "too long"]


@dataclass(frozen=True)
class ExecutedCell:
    """A cell that was executed: its number (execution count) and its source.

    ``number`` is None where the kernel gave none that can be. ``source`` is None where it was not
    recorded; ``omitted`` says why.
    """

    number: int | None
    source: str | None
    omitted: Omission | None = None


@dataclass(frozen=True)
class Provenance:
    """Where one step of an image comes from.

    ``notebook`` and ``cells`` are what was executed since the commit before, as the front end asked
    for it, the oldest first; ``older_cells`` were too many, and are only counted. ``packages`` are
    changes from the image below, None where they are not known; ``more_packages`` are only
    counted. ``base_digest`` is the manifest of that image, ``base_name`` what it was called.
    ``engine`` is the version of cellblock. What is empty is not known.
    """

    notebook: str = ""
    cells: tuple[ExecutedCell, ...] = ()
    older_cells: int = 0
    packages: tuple[PackageChange, ...] | None = None
    more_packages: int = 0
    base_name: str = ""
    base_digest: Digest | None = None
    engine: str = ""
    diffid: Digest | None = None

    def encode(self, most_bytes: int = MAX_BYTES) -> str:
        """Return it as JSON that takes at most so many bytes as a string of a JSON document.

        Of what is too much, the oldest cells and the last packages are only counted.
        """
        return _encoded(self, most_bytes)

    @classmethod
    def decode(cls, text: str) -> Provenance:
        """Return what :meth:`encode` made, or a stranger. Raises InvalidAnswer, InvalidDigest."""
        # Twice the size: other versions may allow more.
        return _parsed(JsonObject.decode(text.encode(), "the provenance", 2 * MAX_BYTES))

    @property
    def cells_in_short(self) -> str | None:
        """The cells' numbers, ``2-4, 7``; None where there were none."""
        words = [f"{self.older_cells} older"] if self.older_cells else []
        words += _ranges(cell.number for cell in self.cells)
        return ", ".join(words) or None

    @property
    def packages_in_short(self) -> str | None:
        """The packages' changes, ``+pandas 2.2, ~numpy 1.26->2.0``; None where not known."""
        if self.packages is None:
            return None
        words = list(dict.fromkeys(change.short for change in self.packages))
        words += [f"{self.more_packages} more"] if self.more_packages else []
        return ", ".join(words)

    @property
    def in_short(self) -> str:
        """The step in one line; nothing where no cell was executed."""
        numbers = self.cells_in_short
        if numbers is None:
            return ""
        several = len(self.cells) + self.older_cells > 1
        where = f" of {self.notebook}" if self.notebook else ""
        said = f"notebook cell{'s' * several} {numbers}{where}"
        if packages := self.packages_in_short:
            said = f"{said}: {packages}"
        return said if len(said) <= _SHOWN else f"{said[: _SHOWN - 1]}…"


def labelled(
    labels: Mapping[str, str], provenance: Provenance, step: int, most_bytes: int
) -> dict[str, str]:
    """Return ``labels`` with what is known of the step of this number, in so many bytes."""
    found = {name: text for name, text in labels.items() if name not in (_BASE_NAME, _BASE_DIGEST)}
    if provenance.base_digest is not None:
        found[_BASE_DIGEST] = str(provenance.base_digest)
    if provenance.base_name:
        found[_BASE_NAME] = provenance.base_name
    return found | {f"{PROVENANCE_LABEL}{step}": provenance.encode(min(most_bytes, MAX_BYTES))}


def read_provenance(document: ImageDocument) -> tuple[Provenance | None, ...]:
    """Return what is known of each step of an image's history, the oldest first.

    What is not understood, or was said of a layer that is not there, is not known.
    """
    layers = set(document.diff_ids)
    found: list[Provenance | None] = []
    for number, step in enumerate(document.history):
        text = document.config.labels.get(f"{PROVENANCE_LABEL}{number}")
        known = _decoded(text) if text is not None else None
        if known is not None and known.diffid not in ((None,) if step.empty_layer else layers):
            known = None
        found.append(known)
    return tuple(found)


def _encoded(provenance: Provenance, most_bytes: int) -> str:
    """Return it as JSON of at most so many bytes, as JSON in JSON."""
    fitting = replace(provenance, cells=())
    if (packages := fitting.packages) is not None and len(packages) > _MAX_PACKAGES:
        fitting = _without_packages(fitting, packages, _MAX_PACKAGES)
    while (size := _size(_text(fitting))) > most_bytes and fitting.packages:
        fitting = _without_packages(fitting, fitting.packages, len(fitting.packages) // 2)
    kept = _newest(provenance.cells, most_bytes - size)
    older = provenance.older_cells + len(provenance.cells) - len(kept)
    return _text(replace(fitting, cells=kept, older_cells=older))


def _newest(cells: tuple[ExecutedCell, ...], room_bytes: int) -> tuple[ExecutedCell, ...]:
    """Return the last cells that there is room for; of the very last at least the number."""
    kept: list[ExecutedCell] = []
    room_bytes -= _COUNT_BYTES
    for cell in cells[: -MAX_CELLS - 1 : -1]:
        room_bytes -= _size(json.dumps(_known(_cell(cell)))) + _COMMA_BYTES
        if room_bytes < 0:
            if not kept:
                kept.append(
                    cell if cell.source is None else ExecutedCell(cell.number, None, "too long")
                )
            break
        kept.append(cell)
    return tuple(reversed(kept))


def _without_packages(
    provenance: Provenance, packages: tuple[PackageChange, ...], kept: int
) -> Provenance:
    more = provenance.more_packages + len(packages) - kept
    return replace(provenance, packages=packages[:kept], more_packages=more)


def _size(text: str) -> int:
    """Return the bytes that it takes as a string of a JSON document."""
    return len(json.dumps(text))


def _text(provenance: Provenance) -> str:
    packages = provenance.packages
    plain: dict[str, Any] = {
        "notebook": _clean(provenance.notebook),
        "cells": [_known(_cell(cell)) for cell in provenance.cells] or None,
        "older_cells": provenance.older_cells,
        "packages": None if packages is None else [_known(vars(change)) for change in packages],
        "more_packages": provenance.more_packages,
        "base_name": provenance.base_name,
        "base_digest": str(provenance.base_digest) if provenance.base_digest else None,
        "engine": provenance.engine,
        "diffid": str(provenance.diffid) if provenance.diffid else None,
    }
    return json.dumps({name: value for name, value in plain.items() if value not in ("", 0, None)})


def _cell(cell: ExecutedCell) -> Mapping[str, object]:
    source = None if cell.source is None else _clean(cell.source)
    return {"number": cell.number, "source": source, "omitted": cell.omitted}


def _known(members: Mapping[str, object]) -> dict[str, object]:
    return {
        name: _clean(value) if isinstance(value, str) else value
        for name, value in members.items()
        if value is not None
    }


def _clean(text: str) -> str:
    """Return what a string of JSON can carry anywhere: no NUL, no half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _decoded(text: str) -> Provenance | None:
    try:
        return Provenance.decode(text)
    except (InvalidAnswer, InvalidDigest):
        return None


def _parsed(document: JsonObject) -> Provenance:
    packages = document.members("packages", _MAX_PACKAGES) if "packages" in document else None
    return Provenance(
        notebook=_word(document, "notebook") or "",
        cells=tuple(map(_parsed_cell, document.members("cells", MAX_CELLS))),
        older_cells=_number(document, "older_cells") or 0,
        packages=None if packages is None else tuple(map(_parsed_change, packages)),
        more_packages=_number(document, "more_packages") or 0,
        base_name=_word(document, "base_name") or "",
        base_digest=_digest(document, "base_digest"),
        engine=_word(document, "engine") or "",
        diffid=_digest(document, "diffid"),
    )


def _parsed_cell(document: JsonObject) -> ExecutedCell:
    source, omitted = document.text("source"), document.text("omitted")
    if omitted is not None and (omitted not in get_args(Omission) or source is not None):
        raise document.wrong("omitted", "is not understood")
    return ExecutedCell(_number(document, "number"), source, cast("Omission | None", omitted))


def _parsed_change(document: JsonObject) -> PackageChange:
    change, kind = document.required_text("change"), document.required_text("kind")
    old, new = _word(document, "old"), _word(document, "new")
    has = {"added": (False, True), "removed": (True, False), "changed": (True, True)}
    if kind not in KINDS or has.get(change) != (old is not None, new is not None):
        raise document.wrong("change", "is not understood")
    name, place = _word(document, "name"), document.text("place")
    if not name:
        raise document.wrong("name", "is missing")
    return PackageChange(
        cast("Any", change), cast("Any", kind), name, old, new, (place or "")[: 16 * _LONGEST_WORD]
    )


def _word(document: JsonObject, name: str) -> str | None:
    """Return what can be shown in a line; None where it is missing."""
    text = document.text(name)
    if text is not None and (len(text) > _LONGEST_WORD or not text.isprintable()):
        raise document.wrong(name, "is not what can be shown")
    return text


def _number(document: JsonObject, name: str) -> int | None:
    if name not in document:
        return None
    number = document.integer(name)
    if number > _MAX_NUMBER:
        raise document.wrong(name, "is out of range")
    return number


def _digest(document: JsonObject, name: str) -> Digest | None:
    text = document.text(name)
    return None if text is None else Digest.parse(text)


def _ranges(numbers: Iterator[int | None]) -> list[str]:
    """Return ``2-4`` for numbers in a row; ``?`` for those that are not known."""
    runs: list[list[int]] = []
    words: list[str] = []
    for number in numbers:
        if number is None:
            words.append("?")
        elif runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return shown + words
