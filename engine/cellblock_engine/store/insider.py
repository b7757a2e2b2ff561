"""The process that works on the files of an ordinary user's store; see :mod:`.inside`.

Run as ``python -I -S insider.py PARENT_PID SYS_PATH...``. It takes one job from its standard input,
becomes root of a user namespace with the ids of the store, does it, and answers on its standard
output. It ends when its parent does (by pidfd: other children of the parent may hold the pipe).
"""

from __future__ import annotations

import os
import pickle
import select
import sys
import threading
import traceback
from collections.abc import Iterator


def main(parent_pid: int, paths: list[str]) -> None:
    """Do the job."""
    sys.path += paths
    parent = os.pidfd_open(parent_pid)
    if os.getppid() != parent_pid:
        return

    from cellblock_engine import log  # noqa: PLC0415 - its path is known now
    from cellblock_engine.errors import CellblockError  # noqa: PLC0415 - as of this
    from cellblock_engine.linux import idmaps  # noqa: PLC0415 - as of these
    from cellblock_engine.store import frames  # noqa: PLC0415 - as of these

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else that is printed is an answer
    request = frames.read_frame(sys.stdin.buffer)
    if request is None:
        return
    maps, level, job, args, kwargs = pickle.loads(request[1])  # noqa: S301 - of our parent
    idmaps.enter(maps)  # while there is one thread
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if level is not None:
        log.hear(level, lambda told: frames.write_frame(answers, frames.TOLD, pickle.dumps(told)))
    try:
        answer = job(*args, **kwargs)
        if isinstance(answer, Iterator):
            for piece in answer:
                frames.write_frame(answers, frames.PIECE, piece)
            answer = None
        kind, content = frames.RESULT, pickle.dumps(answer)
    except Exception as error:  # noqa: BLE001 - it is raised again where the job was given
        if not isinstance(error, CellblockError):
            error.add_note(traceback.format_exc())
        kind, content = frames.ERROR, pickle.dumps(error)
    frames.write_frame(answers, kind, content)


def _watch(parent: int) -> None:
    """End this process at once, whatever it does, when nobody waits for it."""
    poll = select.poll()
    poll.register(parent, select.POLLIN)
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
