"""A question to the user that ends when nobody waits for its answer any more.

Whoever is asked cannot be polled: the front end's ``input`` blocks. So a thread watches the pipe
of the cell that asked, for as long as the question stands.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def watched(
    asker: int, withdraw: Callable[[], None], deadline: float | None = None
) -> Iterator[None]:
    """Call ``withdraw``, in a thread, should the last writer of the pipe ``asker`` go meanwhile.

    Or should the ``deadline`` (of the monotonic clock) pass.
    """
    stop, until = os.pipe()

    def watch() -> None:
        poll = select.poll()
        poll.register(asker, 0)  # POLLHUP alone, which comes before what is unread is read
        poll.register(stop, select.POLLIN)
        left_s = None if deadline is None else max(0, deadline - time.monotonic())
        ready = poll.poll(None if left_s is None else left_s * 1000)
        if stop not in {fd for fd, _ in ready}:
            withdraw()

    watcher = threading.Thread(target=watch, name="cellblock-question", daemon=True)
    try:
        watcher.start()
        yield
    finally:
        os.close(until)
        watcher.join()
        os.close(stop)
