"""The image configuration: how a container of the image is run, and of what it was made; no I/O.

OCI's image-spec, config.md, which is also the form Docker writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ..errors import InvalidAnswer, InvalidDigest
from .digest import Digest
from .jsonobject import JsonObject
from .manifest import MAX_LAYERS, MAX_MANIFEST_BYTES
from .platform import Platform

MAX_CONFIG_BYTES = MAX_MANIFEST_BYTES
PROVENANCE_LABEL = "cellblock.provenance."
"""How labels begin that are about an image's making (:mod:`.provenance`), not its containers."""
_MAX_HISTORY = 10_000


@dataclass(frozen=True)
class ImageConfig:
    """Defaults for containers of an image; empty means the image says nothing.

    ``env`` holds ``NAME=value`` strings in the image's order; ``exposed_ports`` and ``volumes``
    are kept as written (``8080/tcp``, ``/data``).
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True)
class HistoryEntry:
    """One step of an image's making; ``empty_layer`` steps changed only the configuration."""

    created: datetime | None
    created_by: str
    author: str
    comment: str
    empty_layer: bool


@dataclass(frozen=True)
class ImageDocument:
    """A whole configuration document; its digest is the image's id."""

    platform: Platform
    created: datetime | None
    author: str
    config: ImageConfig
    diff_ids: tuple[Digest, ...]
    history: tuple[HistoryEntry, ...]


def parse_config(raw: bytes) -> ImageDocument:
    """Return the configuration ``raw`` holds. Raises InvalidAnswer."""
    document = JsonObject.decode(raw, "the image config", MAX_CONFIG_BYTES)
    rootfs = document.required_member("rootfs")
    if rootfs.required_text("type") != "layers":
        raise rootfs.wrong("type", "is not 'layers'")
    config = document.member("config")
    return ImageDocument(
        platform=Platform.of(
            document.required_text("os"),
            document.required_text("architecture"),
            document.text("variant"),
        ),
        created=_time(document.text("created")),
        author=document.text("author") or "",
        config=ImageConfig() if config is None else _config(config),
        diff_ids=_diff_ids(rootfs),
        history=tuple(map(_history, document.members("history", _MAX_HISTORY))),
    )


def _diff_ids(rootfs: JsonObject) -> tuple[Digest, ...]:
    texts = rootfs.texts("diff_ids")
    if len(texts) > MAX_LAYERS:
        raise InvalidAnswer(
            f"the image has {len(texts)} layers, more than the {MAX_LAYERS} a kernel can stack"
        )
    try:
        return tuple(map(Digest.parse, texts))
    except InvalidDigest as error:
        raise rootfs.wrong("diff_ids", f"is refused: {error}") from error


def _config(document: JsonObject) -> ImageConfig:
    env = document.texts("Env")
    for entry in env:
        name, equals, _ = entry.partition("=")
        if not name or not equals:
            raise document.wrong("Env", f"has {entry[:60]!r}, which is not NAME=value")
    return ImageConfig(
        entrypoint=document.texts("Entrypoint"),
        cmd=document.texts("Cmd"),
        env=env,
        user=document.text("User") or "",
        working_dir=document.text("WorkingDir") or "",
        stop_signal=document.text("StopSignal") or "",
        labels=document.mapping("Labels"),
        exposed_ports=document.names("ExposedPorts"),
        volumes=document.names("Volumes"),
    )


def _history(document: JsonObject) -> HistoryEntry:
    return HistoryEntry(
        created=_time(document.text("created")),
        created_by=document.text("created_by") or "",
        author=document.text("author") or "",
        comment=document.text("comment") or "",
        empty_layer=document.flag("empty_layer"),
    )


def _time(text: str | None) -> datetime | None:
    """Return an aware time, None where it is missing, unreadable or Go's zero (year 1).

    It only informs: a time nobody can read is no reason to refuse an image.
    """
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None and time.year > 1 else None
