"""The unpacker: a small process that unpacks layers, one after another, until told to end.

Started by :mod:`.unpacking` as ``python -I -S unpacker.py PARENT_PID MAPS SYS_PATH...``: isolated,
so nothing of the user's Python is loaded, and killable, so a hostile or endless layer costs no more
than this process. Where MAPS has the ids of an ordinary user's containers, it becomes root of
them. Requests and answers are JSON lines on its standard input and output. It ends when its input
ends or its parent does (by pidfd: other children of the parent may hold the pipe).

A request is ``{"blob", "staging", "max_bytes", "max_entries"}``: unpack that file into
``staging/fs``, describe it in ``staging/layer.json``, sync both to the disk. Answers are
``{"read": BYTES}`` on the way, then ``{"diffid": HEX}`` or ``{"error": CLASS, "message": TEXT}``.
A number instead of the blob's path is an inherited descriptor, from which an archive is read that
its maker is still writing; then the answer comes without reports on the way.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import sys
import threading
from collections.abc import Callable
from queue import Full, Queue, SimpleQueue

_QUEUED_CHUNKS = 16
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def main(parent_pid: int, maps: list[list[list[int]]] | None, paths: list[str]) -> None:
    """Serve requests until the end of standard input."""
    sys.path += paths
    requests: SimpleQueue[bytes | None] = SimpleQueue()
    parent = os.pidfd_open(parent_pid)
    if os.getppid() != parent_pid:
        return
    if maps is not None:
        from cellblock_engine.linux import idmaps  # noqa: PLC0415 - its path is known now

        idmaps.enter(idmaps.IdMaps.of(maps))  # while there is one thread
    threading.Thread(target=_watch, args=(parent, requests), daemon=True).start()
    gc.disable()  # nothing here makes cycles worth finding
    os.umask(0)

    from cellblock_engine.errors import CellblockError  # noqa: PLC0415 - its path is known now
    from cellblock_engine.store import unpack  # noqa: F401, PLC0415 - while the parent prepares

    while (line := requests.get()) is not None:
        try:
            answer: dict[str, object] = {"diffid": _serve(json.loads(line))}
        except CellblockError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        _answer(answer)


def _watch(parent: int, requests: SimpleQueue[bytes | None]) -> None:
    """Pass on requests; end the process at once, whatever it does, when nobody waits for it."""
    poll = select.poll()
    poll.register(parent, select.POLLIN)
    poll.register(0, select.POLLIN)
    pending = b""
    while True:
        ready = {fd for fd, _ in poll.poll()}
        data = b"" if parent in ready else os.read(0, 2**16)
        if not data:
            os._exit(0)
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            requests.put(line)


def _answer(document: dict[str, object]) -> None:
    line = json.dumps(document).encode() + b"\n"
    while line:
        line = line[os.write(1, line) :]


def _serve(request: dict[str, object]) -> str:
    from cellblock_engine.errors import StoreError  # noqa: PLC0415

    with contextlib.ExitStack() as stack:

        def opened(path: str, flags: int, dir_fd: int | None = None) -> int:
            fd = os.open(path, flags, dir_fd=dir_fd)
            stack.callback(os.close, fd)
            return fd

        try:
            staging = opened(str(request["staging"]), _DIRECTORY)
            # Held beside the parent's, so that a sweep after its death waits for ours.
            fcntl.flock(staging, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.mkdir("fs", 0o700, dir_fd=staging)
            root = opened("fs", _DIRECTORY, staging)
            blob = request["blob"]
            if isinstance(blob, int):
                stack.callback(os.close, blob)
                return _unpack(blob, staging, root, request, lambda _: None)
            fd = opened(str(blob), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            return _unpack(fd, staging, root, request, _report)
        except OSError as error:
            raise StoreError(f"cannot unpack a layer: {error}") from error


def _unpack(
    blob: int, staging: int, root: int, request: dict[str, object], report: Callable[[int], None]
) -> str:
    from cellblock_engine.linux.syscalls import syncfs  # noqa: PLC0415
    from cellblock_engine.store.tar import Stream  # noqa: PLC0415
    from cellblock_engine.store.unpack import unpack  # noqa: PLC0415

    feed = Feed(blob, max_bytes=int(str(request["max_bytes"])), report=report)
    try:
        unpacked = unpack(Stream(feed), root, max_entries=int(str(request["max_entries"])))
    finally:
        feed.close()
    description = os.open("layer.json", _CREATE, 0o600, dir_fd=staging)
    with open(description, "w") as file:
        json.dump(unpacked.record(), file)
    syncfs(root)  # once for all files: what the rename shows is on the disk
    return feed.hexdigest


class Feed:
    """The uncompressed chunks of a blob, made and hashed by a thread ahead of their reader.

    isal, zstd and hashlib release the GIL, so decompression and hashing overlap with writing.
    """

    def __init__(self, blob: int, *, max_bytes: int, report: Callable[[int], None]) -> None:
        self.hexdigest = ""
        self._queue: Queue[bytes | Exception | None] = Queue(_QUEUED_CHUNKS)
        self._report = report
        self._closed = self._ended = False
        self._thread = threading.Thread(target=self._run, args=(blob, max_bytes), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and wait for it: it reads a descriptor of ours."""
        self._closed = True
        self._thread.join()

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> bytes:
        item = None if self._ended else self._queue.get()
        if isinstance(item, bytes):
            return item
        self._ended = True  # nothing more will be queued: the next call must not wait for it
        if item is None:
            raise StopIteration
        raise item

    def _run(self, blob: int, max_bytes: int) -> None:
        import hashlib  # noqa: PLC0415 - loads OpenSSL, beside the work of the other thread

        from cellblock_engine.errors import CellblockError  # noqa: PLC0415
        from cellblock_engine.store.compression import chunks  # noqa: PLC0415

        digest = hashlib.sha256()
        try:
            for chunk in chunks(blob, max_bytes=max_bytes, read=self._report):
                digest.update(chunk)
                if not self._put(chunk):
                    return
        except CellblockError as error:
            self._put(error)
            return
        self.hexdigest = digest.hexdigest()
        self._put(None)

    def _put(self, item: bytes | Exception | None) -> bool:
        """Queue ``item``; False when the reader is gone."""
        while not self._closed:
            try:
                self._queue.put(item, timeout=0.05)
            except Full:
                continue
            return True
        return False


def _report(read_bytes: int) -> None:
    if read_bytes % 2**21 < 2**18:  # about every eighth block
        _answer({"read": read_bytes})


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:])
