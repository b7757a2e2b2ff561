"""Threads of one transfer, of which the first failure ends all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

from .transport import Transport

_TICK_S = 0.2  # an interrupt whose signal went to another thread is seen after this long
Found = TypeVar("Found")


@contextmanager
def pool(transport: Transport, threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Give threads for the block; what it raises stops them, and every request of theirs."""
    with ThreadPoolExecutor(threads, f"cellblock-{name}") as executor:
        try:
            yield executor
        except BaseException:
            transport.stop()
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def some_done(futures: Iterable[Future[Found]]) -> set[Future[Found]]:
    """Wait for a moment; return those that have ended well, raise what one of them raised."""
    done, _ = wait(futures, timeout=_TICK_S, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return done


def all_done(futures: Iterable[Future[Found]]) -> None:
    """Wait until all have ended well; raise what the first raised."""
    pending = set(futures)
    while pending:
        pending -= some_done(pending)
