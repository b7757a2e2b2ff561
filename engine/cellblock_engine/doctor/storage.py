"""The store's file system and the runtime directory: what can be mounted, kept and locked there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import StartFailed
from ..layout import Layout
from ..private import make_runtime_directory
from ..runtime import state
from ..store.formats import make_home
from ..store.staging import Staging
from .answers import Answers
from .check import CANNOT_RUN, Check, tried

_ELSEWHERE = "put the store on ext4, xfs, btrfs or tmpfs of this machine, with CELLBLOCK_HOME"
_REMOTE = frozenset(
    "nfs nfs4 cifs smb3 9p ceph fuse.ceph fuse.sshfs fuse.glusterfs lustre gpfs beegfs afs "
    "fuse.s3fs fuse.gcsfuse fuse.juicefs".split()
)
_LONGEST_SOCKET_PATH = 107  # unix(7)


def runtime_directory(layout: Layout) -> Check:
    """Return the rung of where sockets lie, which is made if need be."""
    name = "runtime directory"
    own = "set XDG_RUNTIME_DIR to a directory of your own, with mode 0700 and a short path"
    try:
        make_runtime_directory(layout.run)
    except (OSError, StartFailed) as error:
        return Check(name, "missing", str(error), CANNOT_RUN, own)
    longest = max(
        len(os.fsencode(path)) for path in (layout.spawner_socket(999), layout.monitor_socket("0"))
    )
    if longest > _LONGEST_SOCKET_PATH:
        found = f"{layout.run} is too long for the path of a socket"
        return Check(name, "missing", found, CANNOT_RUN, own)
    return Check(name, "ok", os.fspath(layout.run))


def all_rungs(answers: Answers, *, root: bool) -> Iterator[Check]:
    """Yield the rungs of what the store's file system can do.

    ``root``: containers have ranges of ids of their own.
    """
    yield tried(
        "overlay",
        answers["overlay"],
        "with userxattr, on the store's file system",
        CANNOT_RUN,
        f"load the overlay module, or {_ELSEWHERE}: another overlay or a network file system "
        "cannot be written through",
    )
    yield _partly(
        "many layers",
        answers["many layers"],
        "200 and more",
        "images of more than about 100 layers",
        "use Linux 6.8 or newer",
    )
    yield _partly(
        "memory layers",
        answers["memory layers"],
        "what is written can be kept in memory of a limited size",
        "--storage-limit",
        "use Linux 6.6 or newer",
    )
    if root:
        yield tried(
            "idmapped mounts",
            answers["idmapped mounts"],
            "on the store's file system",
            CANNOT_RUN,
            _ELSEWHERE,
        )
    else:
        found = "not needed: files in the store have owners as containers' ids are mapped"
        yield Check("idmapped mounts", "ok", found)


def store(layout: Layout) -> Check:
    """Return the rung of the store, made if need be: where, and whether only this machine's.

    Raises StoreError for a directory that is none.
    """
    try:
        make_home(layout)
        with Staging(layout.staging).directory():
            pass
    except OSError as error:
        found = f"{error.filename or layout.home}: {error.strerror or error}"
        return Check("store", "missing", found, CANNOT_RUN, "name another place by CELLBLOCK_HOME")
    kind = file_system(layout.home)
    found = f"{layout.home}, on {kind}"
    elsewhere = [
        identifier[:12]
        for identifier in _live(layout)
        if not layout.monitor_socket(identifier).exists()
    ]
    if elsewhere:
        return Check(
            "store",
            "partial",
            f"{found}; containers run that are not of here: {', '.join(elsewhere[:4])}",
            "stop, exec and logs of these: the processes that hold them are another machine's, or "
            "another container's",
            "give each machine and each container a store of its own, with CELLBLOCK_HOME",
        )
    if kind in _REMOTE:
        return Check(
            "store",
            "partial",
            found,
            "a store that is only this machine's: locks and sockets of others are not seen",
            _ELSEWHERE,
        )
    return Check("store", "ok", found)


def file_system(directory: Path) -> str:
    """Return the type of the file system of a directory, as proc_pid_mountinfo(5) names it."""
    fd = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        words = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").split()
        mount = words[words.index("mnt_id:") + 1]
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if before.split(" ", 1)[0] == mount:
                return after.split(" ", 1)[0]
    return "an unknown file system"


def _live(layout: Layout) -> Iterator[str]:
    for path in layout.containers.iterdir() if layout.containers.is_dir() else ():
        if not path.name.startswith(".") and state.is_live(os.fspath(path)):
            yield path.name


def _partly(name: str, answer: str | None, found: str, lost: str, remedy: str) -> Check:
    if answer is None:
        return Check(name, "ok", found)
    return Check(name, "partial", answer, lost, remedy)
