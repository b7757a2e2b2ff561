"""A question to the user that ends when nobody waits for its answer any more.

Whoever is asked cannot be polled: the front end's ``input`` blocks. So a thread watches the pipe
of the cell that asked, for as long as the question stands.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def watched(asker: int, withdraw: Callable[[], None]) -> Iterator[None]:
    """Call ``withdraw``, in a thread, should the last writer of the pipe ``asker`` go meanwhile."""
    stop, until = os.pipe()

    def watch() -> None:
        poll = select.poll()
        poll.register(asker, 0)  # POLLHUP alone, which comes before what is unread is read
        poll.register(stop, select.POLLIN)
        if {fd for fd, _ in poll.poll()} == {asker}:
            withdraw()

    watcher = threading.Thread(target=watch, name="cellblock-question", daemon=True)
    try:
        watcher.start()
        yield
    finally:
        os.close(until)
        watcher.join()
        os.close(stop)
