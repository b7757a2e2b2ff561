"""What a diagnosis is made of: plain data, for whoever asked to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "partial", "missing", "stale", "swept", "damaged", "mended"]
"""The last four are of what is in a store, not of what the machine offers."""

VITAL = frozenset(
    (
        "kernel",
        "surroundings",
        "user namespaces",
        "ids",
        "namespaces",
        "proc",
        "store",
        "overlay",
        "seccomp",
        "runtime directory",
    )
)
"""Names of the rungs without which no container runs."""

CANNOT_RUN = "containers cannot run"


@dataclass(frozen=True)
class Check:
    """One rung: what was found and, where it is not all there, what is lost and how to get it."""

    name: str
    status: Status
    found: str
    lost: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Damage:
    """Something of the store that is not as it was written.

    ``mended`` says what a repair has done about it, and is empty where it has not, or nobody
    asked; ``remedy`` what is left for the user to do, if anything.
    """

    what: str
    lost: str
    remedy: str
    mended: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All rungs; what killed processes left, an item each; and what is damaged in the store.

    ``stale`` is what is still there, ``swept`` what a repair has removed. ``checked`` says in a
    line what of the store was looked at; nothing where that could not be.
    """

    checks: tuple[Check, ...]
    stale: tuple[str, ...] = ()
    swept: tuple[str, ...] = ()
    damage: tuple[Damage, ...] = ()
    checked: str = ""

    @property
    def usable(self) -> bool:
        """Whether containers can run here at all."""
        return not any(c.name in VITAL and c.status == "missing" for c in self.checks)

    @property
    def rows(self) -> tuple[Check, ...]:
        """All of it as rows: the rungs, one for what is stale, and one for each damage."""
        return (*self.checks, _stale(self), *_content(self))


def tried(name: str, answer: str | None, found: str, lost: str, remedy: str) -> Check:
    """Return the rung of something that was tried: the kernel's ``answer``, None for yes."""
    if answer is None:
        return Check(name, "ok", found)
    return Check(name, "missing", answer, lost, remedy)


def _stale(found: Diagnosis) -> Check:
    if found.stale:
        lost = "nothing: the next start or pull sweeps it"
        return Check("stale state", "stale", "; ".join(found.stale), lost, "doctor --repair")
    if found.swept:
        return Check("stale state", "swept", "; ".join(found.swept))
    return Check("stale state", "ok", "none")


def _content(found: Diagnosis) -> tuple[Check, ...]:
    if not found.damage:
        return (Check("content", "ok", found.checked),) if found.checked else ()
    return tuple(
        Check("content", "mended", f"{each.what}; {each.mended}", each.lost, each.remedy)
        if each.mended
        else Check("content", "damaged", each.what, each.lost, each.remedy)
        for each in found.damage
    )
