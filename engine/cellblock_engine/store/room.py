"""The lack of room on a file system, told as the one error that its user can mend."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import StoreFull

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def raise_if_full(error: OSError, what: str) -> None:
    """Raise StoreFull if ``error`` says that there is no room for ``what``; else return."""
    if error.errno in _FULL:
        raise StoreFull(
            f"no space left for {what}: remove images (rmi) or containers (rm), or set "
            "CELLBLOCK_HOME to a larger disk"
        ) from error


@contextmanager
def telling_if_full(what: str) -> Iterator[None]:
    """Raise StoreFull where the block meets an OSError that says that there is no room."""
    try:
        yield
    except OSError as error:
        raise_if_full(error, what)
        raise
