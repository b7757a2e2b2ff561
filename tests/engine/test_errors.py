"""What the engine raises crosses from process to process as it is."""

from __future__ import annotations

import pickle

import pytest

from cellblock_engine import errors


@pytest.mark.parametrize(
    "error",
    [
        errors.ImageNotFound("image x is not in the store"),
        errors.OutOfMemory(limit_bytes=2**26, peak_bytes=2**25, own=True),
        errors.PidsExceeded(limit=4, refused=1),
        errors.DiskFull(limit_bytes=2**20),
        errors.TimedOut(limit_s=1.5),
        errors.Killed(reason="by SIGTERM"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_can_be_pickled(error: errors.CellblockError) -> None:
    error.add_note("seen in another process")
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), str(other)) == (type(error), str(error))
    assert vars(other) == vars(error)
