"""What a lock says: the image that a notebook is to be run in, and what was installed in it.

It is a part of the notebook's metadata, ``metadata.cellblock.lock``, which anybody may have
written: it names an image by digests, and nothing of what a container may do. The list of
packages is to be read and compared; no package is installed by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cellblock_engine import Digest, InvalidInput, Package, Platform, Reference

KEY, MEMBER = "cellblock", "lock"
_VERSION = 1
_KERNEL = re.compile(r"[a-z0-9._-]{1,40}", re.IGNORECASE)
_MOST_KINDS, _MOST_PACKAGES, _LONGEST = 16, 100_000, 500

Packages = Mapping[str, Mapping[str, str]]
"""Versions by kind and name; of one that is there several times all versions."""


@dataclass(frozen=True)
class Pin:
    """An image by its manifest's digest and its id, the digest of its config."""

    manifest: Digest
    id: Digest


@dataclass(frozen=True)
class Lock:
    """The image of a notebook: ``pin`` is what runs, ``kernel`` one of the kernels in it.

    ``image`` is what people call it. An image that had to be given ipykernel first is ``base``,
    and ``image`` its name; ``pin`` then is what was made of it here, which no registry has.
    """

    image: Reference
    pin: Pin
    platform: Platform
    kernel: str
    base: Pin | None
    packages: Packages

    def metadata(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is to be in a notebook's metadata under :data:`KEY`, for what was there."""
        known = before.get(KEY)
        lock: dict[str, Any] = {
            "version": _VERSION,
            "image": str(self.image),
            **_document(self.pin),
            "platform": str(self.platform),
            "kernel": self.kernel,
            "packages": {kind: dict(names) for kind, names in self.packages.items()},
        }
        if self.base is not None:
            lock["base"] = _document(self.base)
        return {**(known if isinstance(known, dict) else {}), MEMBER: lock}

    @classmethod
    def parse(cls, metadata: Mapping[str, Any], notebook: str) -> Lock:
        """Return the lock in the metadata of a notebook, called so. Raises InvalidInput."""
        ours = metadata.get(KEY)
        found = ours.get(MEMBER) if isinstance(ours, dict) else None
        if found is None:
            raise InvalidInput(
                f"{notebook} is not locked to an image: see cellblock lock {notebook}"
            )
        try:
            return _parsed(found)
        except (ValueError, TypeError) as error:
            why = " ".join(str(error).split())[:200]
            raise InvalidInput(
                f"the lock of {notebook} is not understood: {why}; lock it again"
            ) from error


@dataclass(frozen=True)
class Difference:
    """A package whose versions differ; None is where it is not installed."""

    change: Literal["added", "removed", "changed"]
    kind: str
    name: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        if self.old is None or self.new is None:
            return f"{self.change}: {self.kind} {self.name} {self.old or self.new or ''}".rstrip()
        return f"{self.change}: {self.kind} {self.name} {self.old} -> {self.new}"


def listed(packages: Iterable[Package]) -> Packages:
    """Return packages as a lock lists them."""
    found: dict[str, dict[str, list[str]]] = {}
    for each in packages:
        found.setdefault(each.kind, {}).setdefault(each.name, []).append(each.version)
    return {
        kind: {name: ", ".join(sorted(set(names[name])))[:_LONGEST] for name in sorted(names)}
        for kind, names in sorted(found.items())
    }


def differences(old: Packages, new: Packages) -> tuple[Difference, ...]:
    """Return what is to be done to ``old`` to get ``new``, by kind and name."""

    def pairs(packages: Packages) -> dict[tuple[str, str], str]:
        return {
            (kind, name): version
            for kind, names in packages.items()
            for name, version in names.items()
        }

    before, after = pairs(old), pairs(new)
    return tuple(
        _difference(kind, name, before.get((kind, name)), after.get((kind, name)))
        for kind, name in sorted(before.keys() | after.keys())
        if before.get((kind, name)) != after.get((kind, name))
    )


def _difference(kind: str, name: str, old: str | None, new: str | None) -> Difference:
    if old is None:
        return Difference("added", kind, name, old, new)
    return Difference("removed" if new is None else "changed", kind, name, old, new)


def _document(pin: Pin) -> dict[str, str]:
    return {"manifest": str(pin.manifest), "id": str(pin.id)}


def _parsed(found: object) -> Lock:
    """Return a lock. Raises ValueError, TypeError for what is none."""
    lock = _object(found, "it")
    if lock.get("version") != _VERSION:
        raise ValueError(f"it is not of version {_VERSION}")
    kernel, base = _text(lock, "kernel"), lock.get("base")
    if not _KERNEL.fullmatch(kernel):
        raise ValueError("its kernel is no name of one")
    return Lock(
        Reference.parse(_text(lock, "image")),
        _pin(lock),
        Platform.parse(_text(lock, "platform")),
        kernel.lower(),
        None if base is None else _pin(_object(base, "base")),
        _packages(_object(lock.get("packages"), "packages")),
    )


def _packages(found: Mapping[str, object]) -> Packages:
    if len(found) > _MOST_KINDS:
        raise ValueError(f"packages has more than {_MOST_KINDS} kinds")
    packages: dict[str, dict[str, str]] = {}
    for kind, names in found.items():
        listed_ = _object(names, f"packages.{kind[:20]}")
        if len(listed_) > _MOST_PACKAGES:
            raise ValueError(f"packages has more than {_MOST_PACKAGES} of a kind")
        packages[_short(kind)] = {_short(name): _short(each) for name, each in listed_.items()}
    return packages


def _pin(found: Mapping[str, object]) -> Pin:
    return Pin(Digest.parse(_text(found, "manifest")), Digest.parse(_text(found, "id")))


def _object(found: object, what: str) -> Mapping[str, object]:
    if not isinstance(found, dict):
        raise TypeError(f"{what} is no JSON object")
    return found


def _text(found: Mapping[str, object], name: str) -> str:
    if name not in found:
        raise ValueError(f"{name} is missing")
    return _short(found[name], name)


def _short(text: object, what: str = "a package") -> str:
    if not isinstance(text, str) or len(text) > _LONGEST or not text.isprintable():
        raise ValueError(f"{what} is no short text")
    return text
