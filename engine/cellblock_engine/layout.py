"""Where state lives on disk. The only module that joins those paths; it makes none of them.

The store (``home``) survives reboots; ``run`` holds sockets and per-boot state. Paths of unix
sockets are limited to 107 bytes (``unix(7)``), hence the short names below ``run``.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .linux import idmaps

_ROOTS_HOME = Path("/var/lib/cellblock")
_ROOTS_RUN = Path("/run/cellblock")
_IDMAPPED_TMPFS = (6, 3)


@dataclass(frozen=True)
class Layout:
    """The paths of one store."""

    home: Path
    run: Path

    @classmethod
    def default(cls, home: Path | None = None) -> Layout:
        """Return the layout below ``home``, else ``$CELLBLOCK_HOME``, else the user's own place.

        That is ``/var/lib/cellblock`` and ``/run/cellblock`` for root, the XDG data and runtime
        directories for everybody else, also for user 0 of a user namespace in which ``/run`` is
        not its own. Each store has a runtime directory of its own, named by a hash of its path,
        so that engines on different stores never meet.
        """
        named = home or (Path(text) if (text := os.environ.get("CELLBLOCK_HOME")) else None)
        store = b""
        if os.geteuid() == 0 and _is_own(Path("/run")):
            home, run = named or _ROOTS_HOME, _ROOTS_RUN
        else:
            import platformdirs  # noqa: PLC0415 - only ordinary users need it

            home = named or Path(platformdirs.user_data_dir("cellblock"))
            run = _runtime_directory()
            if os.geteuid() == 0:  # one of many, each of which has processes of its own
                store = b"%d " % Path("/proc/self/ns/user").stat().st_ino
        home = home.absolute()
        store += os.fsencode(home)
        return cls(home, run / hashlib.sha256(store).hexdigest()[:12])

    @property
    def blobs(self) -> Path:
        """``sha256/<hex>`` files, as received."""
        return self.home / "blobs" / "sha256"

    @property
    def partials(self) -> Path:
        """The beginnings of blobs whose downloads were cut off, by their digests."""
        return self.home / "partials"

    @property
    def layers(self) -> Path:
        """``<hex of diffID>/fs`` trees."""
        return self.home / "layers"

    @property
    def chains(self) -> Path:
        """What stacks of layers need beyond the layers, by a hash of their diffIDs."""
        return self.home / "chains"

    @property
    def references(self) -> Path:
        """One JSON file per image reference."""
        return self.home / "references"

    @property
    def derivations(self) -> Path:
        """One JSON file for each image that was made of another by a recipe."""
        return self.home / "derivations"

    @property
    def containers(self) -> Path:
        """One directory per container."""
        return self.home / "containers"

    @property
    def names(self) -> Path:
        """One symbolic link per container name, to its id: creation is the lock on the name."""
        return self.home / "names"

    @property
    def staging(self) -> Path:
        """Unfinished work; each entry is flocked by its maker, and swept when it is not."""
        return self.home / "staging"

    @property
    def damaged(self) -> Path:
        """What a repair has set aside."""
        return self.home / "damaged"

    @property
    def format(self) -> Path:
        """The number of the store's format (:mod:`.store.formats`); also marks it as a store."""
        return self.home / "format"

    @property
    def ids(self) -> Path:
        """Which ids an ordinary user's containers have (:mod:`.ids`)."""
        return self.home / "ids.json"

    @property
    def gc_lock(self) -> Path:
        """Held shared while references are made, exclusively while garbage is collected."""
        return self.home / "gc.lock"

    @property
    def host_images(self) -> Path:
        """Skeleton trees of the host image, by fingerprint."""
        return self.home / "host"

    @property
    def spawner_lock(self) -> Path:
        """Held while a spawner is started, or leaves."""
        return self.run / "spawner.lock"

    def spawner_socket(self, protocol: int | Literal["*"]) -> Path:
        """Where the spawner of this protocol version listens; ``*`` is a pattern for all."""
        return self.run / f"spawner-{protocol}.sock"

    def monitor_socket(self, container_id: str) -> Path:
        """Where the monitor of a container listens."""
        return self.run / f"{container_id[:12]}.sock"

    @property
    def kernels(self) -> Path:
        """Sockets of notebook kernels; apart from ``run``, as containers are shown parts of it.

        Root's containers see these idmapped, which no tmpfs can be before Linux 6.3: then they are
        on the disk.
        """
        if self.run.parent == _ROOTS_RUN and _release() < _IDMAPPED_TMPFS:
            return _ROOTS_HOME.with_name("cellblock-kernels")
        return self.run.parent.with_name(f"{self.run.parent.name}-kernels")

    def reference(self, reference: object) -> Path:
        """Return where it is recorded what a reference names."""
        return self.references / f"{_hashed(str(reference))}.json"

    def derivation(self, base: object, recipe: str) -> Path:
        """Return where it is recorded what was made of an image by a recipe."""
        return self.derivations / _hashed(f"{base} {recipe}")

    def chain(self, diffids: Iterable[object]) -> Path:
        """Return where it is kept what a stack of these layers needs."""
        return self.chains / _hashed("\n".join(map(str, diffids)))

    @property
    def id_ranges(self) -> Path:
        """One lock file per subordinate id range in use; shared by all stores of the machine."""
        return self.run.parent / "ids"


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _runtime_directory() -> Path:
    """Return where an ordinary user's sockets go: short paths, and nobody else's to change.

    That is below $XDG_RUNTIME_DIR, unless it is another user's (sudo(8) can leave it so), below
    what systemd made for the user, or a directory of the user's in ``/tmp``, which
    :func:`.private.make_runtime_directory` refuses if somebody else has made it.
    """
    named = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if named.is_absolute() and (_is_own(named) or not named.exists()):
        return named / "cellblock"
    session = Path(f"/run/user/{os.geteuid()}")
    if _is_own(session) and not session.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return session / "cellblock"
    # By the user's number outside: that of a user namespace may be several users' there.
    return Path(f"/tmp/cellblock-{idmaps.outside(os.geteuid())}")  # noqa: S108 - checked there


def _release() -> tuple[int, ...]:
    """Return the kernel's version, as far as it is numbers."""
    return tuple(int(word) for word in re.findall(r"\d+", os.uname().release)[:2])


def _is_own(directory: Path) -> bool:
    try:
        return directory.stat().st_uid == os.geteuid() and directory.is_dir()
    except OSError:
        return False
