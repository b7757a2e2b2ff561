"""What a caller asks of an image that is to be made, checked as far as words can be checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InvalidInput

if TYPE_CHECKING:
    from .oci.provenance import Provenance

_LATEST_EPOCH_S = 253_402_300_799  # of the year 9999: the last that a config's date can tell


@dataclass(frozen=True)
class CommitRequest:
    """How an image is to be made of a container.

    ``comment``, ``author`` and ``created_by`` are told by the image's history; ``created_by`` is
    the cells that ``provenance`` tells of, else the container's command, where it is empty. Of
    ``provenance`` the notebook and its cells count; the commit finds out the rest. With
    ``squash`` all that was written in it is one layer above its own image, whatever was committed
    before. ``changes`` are a Dockerfile's instructions for how containers of the image are run:
    ``ENV A=b`` (:mod:`.oci.instructions`). What matches one of the patterns ``exclude`` stays out
    of the image (:mod:`.patterns`), and with ``default_excludes`` what a .dockerignore would have
    by habit (:mod:`.store.exclusion`): caches of pip and apt, what is in /tmp, /var/tmp and /run,
    and histories of what was typed. ``epoch_s`` is SOURCE_DATE_EPOCH, in seconds: the image is
    made then, and no file of its layer is younger. Raises InvalidInput.
    """

    comment: str = ""
    author: str = ""
    created_by: str = ""
    squash: bool = False
    changes: tuple[str, ...] = ()
    provenance: Provenance | None = None
    exclude: tuple[str, ...] = ()
    default_excludes: bool = True
    epoch_s: int | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be meant."""
        _check_epoch(self.epoch_s)
        if self.exclude:
            from .patterns import Patterns  # noqa: PLC0415 - seldom asked for

            Patterns(self.exclude)
        _check_changes(self.changes)


@dataclass(frozen=True)
class ImportRequest:
    """How an image is to be made of an archive of files.

    ``comment`` is told by the image's history; ``changes`` and ``epoch_s`` are as for a
    :class:`CommitRequest`; ``platform`` is ``os/architecture[/variant]``, by default this
    machine's. Raises InvalidInput.
    """

    comment: str = ""
    changes: tuple[str, ...] = ()
    platform: str | None = None
    epoch_s: int | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be meant."""
        _check_epoch(self.epoch_s)
        _check_changes(self.changes)


@dataclass(frozen=True)
class FreezeRequest:
    """What is to be made an image of.

    ``python`` is the path of an interpreter, or its name on PATH; None is the running one.
    ``project`` is a folder that goes in as well, and that the image's commands start in.
    ``epoch_s`` is SOURCE_DATE_EPOCH, as for a commit. Raises InvalidInput.
    """

    python: str | None = None
    project: Path | None = None
    epoch_s: int | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be meant."""
        _check_epoch(self.epoch_s)


def _check_epoch(epoch_s: int | None) -> None:
    if epoch_s is not None and not 0 <= epoch_s <= _LATEST_EPOCH_S:
        raise InvalidInput(
            f"SOURCE_DATE_EPOCH {epoch_s} is not valid: give seconds since 1970, before the year "
            "10000"
        )


def _check_changes(changes: tuple[str, ...]) -> None:
    if changes:
        from .oci.instructions import parse_changes  # noqa: PLC0415 - seldom asked for

        parse_changes(changes)
