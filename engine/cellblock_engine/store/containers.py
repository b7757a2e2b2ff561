"""Containers on disk: one directory each, reserved by name, immutable but for state and limits.

``config.json`` says what was asked for and what it became; only the limits change later
(:mod:`..runtime.amendment`). ``state.json`` belongs to its monitor (:mod:`..runtime.state`).
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Conflict, ContainerNotFound, StoreError
from ..layout import Layout
from ..limits import Limits
from ..linux.capabilities import DEFAULT
from ..private import make_private
from ..privileges import Ulimit
from ..removal import Removal, recorded_removal
from ..volumes import DEFAULT_SHM_BYTES, Bind, Tmpfs
from . import owners
from .inside import Inside
from .names import random_name
from .room import raise_if_full
from .trees import put_aside, remove_tree

_CONFIG = "config.json"
_SHORTEST_PREFIX = 1
_ATTEMPTS = 20
_ROOM_FOR = "a container in the store"


@dataclass(frozen=True)
class ContainerConfig:
    """What a container is made of. ``created_at`` counts seconds from the epoch.

    ``layers`` are diffIDs (empty for the host image); garbage collection keeps them, and what the
    image's ``manifest`` names, which a commit builds on. ``trees`` are
    the targets of its overlays, in the order of their uppers. ``replaced_limits`` are the names of
    limits that no control group enforces (:mod:`..enforcement`); ``device_rates`` are by the names
    of those limits and by disks' paths. ``unknown`` are the settings that a
    newer version wrote and this one cannot follow.
    """

    id: str
    name: str
    image: str
    image_id: str | None
    layers: tuple[str, ...]
    argv: tuple[str, ...]
    env: tuple[str, ...]
    workdir: str
    user: str
    hostname: str
    network: str
    memory_bytes: int | None
    cpus: float | None
    pids: int | None
    timeout_s: float | None
    stop_signal: int
    labels: dict[str, str]
    created_at: float
    removal: Removal
    binds: tuple[Bind, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    read_only: bool = False
    shm_bytes: int = DEFAULT_SHM_BYTES
    ulimits: tuple[Ulimit, ...] = ()
    capabilities: tuple[str, ...] = tuple(sorted(DEFAULT))
    trees: tuple[str, ...] = ("/",)
    interactive: bool = False
    memory_swap_bytes: int | None = None
    cpuset_cpus: str | None = None
    cpu_shares: int | None = None
    memory_reservation_bytes: int | None = None
    blkio_weight: int | None = None
    device_rates: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    replaced_limits: tuple[str, ...] = ()
    storage_bytes: int | None = None
    allow_hosts: tuple[str, ...] = ()
    manifest: str | None = None
    unknown: tuple[str, ...] = ()

    @property
    def limits(self) -> Limits:
        """What it may use at most; best effort where that is what some are."""
        rates: Mapping[str, Any] = self.device_rates
        return Limits(
            self.memory_bytes,
            self.cpus,
            self.pids,
            self.memory_swap_bytes,
            self.cpuset_cpus,
            self.cpu_shares,
            self.memory_reservation_bytes,
            self.blkio_weight,
            **rates,
            mode="best-effort" if self.replaced_limits else None,
        )


class Containers:
    """The containers of one store; who does not change them needs no way ``inside``."""

    def __init__(self, layout: Layout, inside: Inside | None = None) -> None:
        self._layout = layout
        self._inside = inside

    def reserve(self, name: str | None) -> tuple[str, str]:
        """Return a new id and the name that now belongs to it. Raises Conflict.

        Whoever reserves either makes the container or calls :meth:`release`.
        """
        identifier = secrets.token_hex(32)
        make_private(self._layout.home, self._layout.names)
        for _ in range(_ATTEMPTS):
            candidate = name or random_name()
            try:
                (self._layout.names / candidate).symlink_to(identifier)
            except FileExistsError:
                if name is not None:
                    raise Conflict(
                        f"the name {name!r} is in use: remove that container (cellblock rm "
                        f"{name}) or choose another name"
                    ) from None
                continue
            except OSError as error:
                raise_if_full(error, _ROOM_FOR)
                raise
            return identifier, candidate
        raise Conflict("no free container name was found: choose one with --name")

    def release(self, name: str) -> None:
        """Give a name back."""
        (self._layout.names / name).unlink(missing_ok=True)

    def create(self, config: ContainerConfig, tops: Sequence[Path]) -> Path:
        """Make the directory and in it an empty upper over each of ``tops``.

        A merged directory has its upper's attributes, so each upper takes those of the layer
        below it. Raises StoreFull, OSError; then nothing stays.
        """
        directory = self.directory(config.id)
        try:
            make_private(self._layout.home, directory.parent)
            directory.mkdir(mode=0o700)
            for number, top in enumerate(tops):
                tree = upper(directory, number)
                tree.mkdir(mode=0o755)
                (tree / "work").mkdir(mode=0o700)
                (tree / "fs").mkdir()
                (tree / "fs").chmod(stat.S_IMODE(top.stat().st_mode))
                if config.image_id is not None or self._is_root:
                    self._give(tree / "fs", top)
            draft = directory / f".{_CONFIG}"
            plain = {name: value for name, value in vars(config).items() if name != "unknown"}
            with draft.open("w", encoding="utf-8") as file:
                json.dump(plain, file, default=_plain)
                if config.removal is not Removal.AT_END:  # else it need not outlive a loss of power
                    file.flush()
                    os.fsync(file.fileno())
            draft.rename(directory / _CONFIG)
        except OSError as error:
            remove_tree(directory)
            raise_if_full(error, _ROOM_FOR)
            raise
        return directory

    def directory(self, identifier: str) -> Path:
        """Return where the container of this id lives, or would."""
        return self._layout.containers / identifier

    def list(self) -> Iterator[ContainerConfig]:
        """Yield all containers, in no order."""
        try:
            identifiers = [entry.name for entry in self._layout.containers.iterdir()]
        except FileNotFoundError:
            return
        for identifier in identifiers:
            config = None if identifier.startswith(".") else self.read(identifier)
            if config is not None:
                yield config

    def find(self, name: str) -> ContainerConfig:
        """Return the container of this name, id or unique start of an id.

        Raises ContainerNotFound, and Conflict where several ids start so.
        """
        identifier: str | None = None
        if not {"/", "\0"} & set(name) and name not in ("", ".", ".."):
            try:
                identifier = os.fspath((self._layout.names / name).readlink())
            except OSError:
                identifier = self._by_prefix(name)
        config = self.read(identifier) if identifier else None
        if config is None:
            raise ContainerNotFound(f"no container {name!r}: see the names there are with ps -a")
        return config

    def current(self, config: ContainerConfig) -> ContainerConfig:
        """Return a container as its config says now; as it was, if it is gone."""
        return self.read(config.id) or config

    def remove(self, config: ContainerConfig) -> None:
        """Take the directory and the name away; nothing if that was done. Raises OSError.

        The caller holds off its monitor (:func:`..runtime.state.held_off`).
        """
        link = self._layout.names / config.name
        try:
            if os.fspath(link.readlink()) == config.id:
                link.unlink()
        except FileNotFoundError:
            pass
        aside = put_aside(os.fspath(self.directory(config.id)))
        self.remove_tree(aside)

    def remove_tree(self, path: str) -> None:
        """Remove what containers have left, whoever of them owns it. Raises OSError."""
        if self._inside is None:
            remove_tree(path)
        else:
            self._inside.remove(path)

    @property
    def _is_root(self) -> bool:
        return self._inside is None or self._inside.is_here

    def _give(self, directory: Path, model: Path) -> None:
        """Let a new directory belong to whom another of the store belongs to."""
        try:
            owners.copy(os.fspath(model), os.fspath(directory))
        except PermissionError:
            if self._inside is None or self._inside.is_here:
                raise
            self._inside.run(owners.copy, os.fspath(model), os.fspath(directory))

    def _by_prefix(self, prefix: str) -> str | None:
        if len(prefix) < _SHORTEST_PREFIX or not set(prefix) <= set("0123456789abcdef"):
            return None
        try:
            entries = [entry.name for entry in self._layout.containers.iterdir()]
        except FileNotFoundError:
            return None
        found = [identifier for identifier in entries if identifier.startswith(prefix)]
        if len(found) > 1:
            raise Conflict(f"several containers' ids start with {prefix!r}: give more of it")
        return found[0] if found else None

    def read(self, identifier: str) -> ContainerConfig | None:
        """Return the container of this whole id, None where it is none. Raises StoreError."""
        try:
            text = (self.directory(identifier) / _CONFIG).read_text(
                encoding="utf-8", errors="replace"
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        if is_blank(text):
            return None
        try:
            plain = json.loads(text)
            rich: dict[str, object] = {key: tuple(plain[key]) for key in ("layers", "argv", "env")}
            rich["binds"] = tuple(
                Bind(Path(bind["source"]), bind["target"], bind["writable"])
                for bind in plain.get("binds", ())
            )
            rich["tmpfs"] = tuple(Tmpfs(**each) for each in plain.get("tmpfs", ()))
            rich["ulimits"] = tuple(Ulimit(**each) for each in plain.get("ulimits", ()))
            for key in {"capabilities", "trees", "allow_hosts", "replaced_limits"} & plain.keys():
                rich[key] = tuple(plain[key])
            rich["removal"] = recorded_removal(plain)
            known = plain.keys() & ContainerConfig.__dataclass_fields__
            rich["unknown"] = tuple(sorted(plain.keys() - known - {"remove"}))
            return ContainerConfig(**{name: plain[name] for name in known} | rich)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"container {identifier[:12]} has a damaged config: remove "
                f"{self.directory(identifier)}"
            ) from error


def is_blank(text: str) -> bool:
    """Tell a config whose name, but not whose content, was on the disk when the power was lost.

    Only a container that was to be thrown away is written so.
    """
    return not text.strip("\0")


def upper(directory: Path, number: int) -> Path:
    """Return the directory that holds ``fs`` and ``work`` of the container's n-th overlay."""
    return directory / f"upper{number}"


def _plain(value: object) -> object:
    return os.fspath(value) if isinstance(value, Path) else vars(value)
