"""What a notebook may do to the container of its own kernel, without naming it.

Carried out on this machine for a cell of a kernel in a container (:mod:`cellblock.hostcell`), so
nothing here reaches another container, whatever is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from cellblock_engine import InvalidInput, Limits, format_bytes

from ..tables import duration, utc_now
from . import VERBS
from .commitment import commit_request
from .common import JSON, NO_TRUNC
from .declaration import Argument, Call, Verb
from .limits import CPUS, MEMORY, PIDS_LIMIT
from .outcome import Facts, Listing
from .packages import installed
from .provenance import executed
from .reading import changed, steps
from .restoration import CHECKOUT, UNDO

if TYPE_CHECKING:
    import argparse

    from cellblock_engine import Container

_UNLIMITED = "no limit of its own"
_OWN = Argument(
    ("container",), "this notebook's own: there is no need to name it", "optional", "CONTAINER"
)
_IMAGE = Argument(
    ("image",), "reference or id (the last commit, else the image below)", "optional", "IMAGE"
)
_READING = (NO_TRUNC, JSON, _IMAGE)


def claim(arguments: argparse.Namespace, own: Container) -> None:
    """Let the arguments of one of these verbs mean ``own``. Raises InvalidInput for another."""
    named = getattr(arguments, "container", None)
    if named is not None and named != own.name and not (named and own.id.startswith(named)):
        raise InvalidInput(
            f"{named!r} is not this notebook's container, which is {own.name}: others are reached "
            "from a kernel that is in none, or by the command cellblock"
        )
    arguments.container, arguments.containers = own.id, [own.id]


def info(call: Call) -> Facts:
    """Return what this container is."""
    found = call.engine.container(call.arguments.container).inspect()
    up = None if found.started_at is None else (utc_now() - found.started_at).total_seconds()
    shown = [bind for bind in found.binds if bind.target == found.workdir]
    facts = {
        "name": found.name,
        "id": found.id,
        "image": found.image,
        "digest": found.image_id,
        "committed": None if found.committed is None else str(found.committed),
        "up": None if up is None else duration(up),
        "network": found.network,
        "workspace": next((_workspace(bind.target, bind.writable) for bind in shown), "none"),
        **_limits(call),
    }
    return Facts(facts, "text")


def limits(call: Call) -> Facts:
    """Change the limits that are given, at once; return those in force."""
    given = call.arguments
    wanted = Limits(given.memory, given.cpus, given.pids_limit)
    if wanted:
        call.engine.container(given.container).update(wanted)
    return Facts(_limits(call), "text")


def commit(call: Call) -> Facts:
    """Make an image of this container while the kernel runs; return what that took."""
    given = call.arguments
    made = call.engine.commit(given.container, given.image, commit_request(call))
    if call.executed is not None:
        call.executed.told()
    facts = {
        "image": str(made.id),
        "layer": "none: nothing has changed"
        if made.added is None
        else format_bytes(made.added_bytes),
        "packages": made.provenance.packages_in_short or None,
        "cells": made.provenance.cells_in_short,
        "stood still": f"{made.paused_s:.3f} s",
    }
    return Facts(facts, "text")


def packages(call: Call) -> Listing:
    """List what is installed in this container now."""
    return installed(call, call.engine.container_packages(call.arguments.container))


def history(call: Call) -> Listing:
    """List the steps of an image, of this container's last commit if none is named."""
    return steps(call, _image(call))


def provenance(call: Call) -> Listing:
    """List the cells that an image was made by, this container's last commit if none is named."""
    return executed(call, _image(call))


def diff(call: Call) -> Listing:
    """List what this container has changed of the image it was made from."""
    return changed(call, call.engine.diff(call.arguments.container))


def _image(call: Call) -> str:
    found = call.engine.container(call.arguments.container).inspect()
    named = call.arguments.image or found.committed or found.image_id
    if named is None:
        raise InvalidInput("this container is of this machine's own files, no image: name one")
    return str(named)


def _limits(call: Call) -> dict[str, object]:
    container = call.engine.container(call.arguments.container)
    now, replaced = container.stats(), container.inspect().replaced_limits
    memory, cpus, pids = now.memory_limit_bytes, now.cpus_limit, now.pids_limit
    return {
        "memory": _UNLIMITED if memory is None else format_bytes(memory),
        "cpus": _UNLIMITED if cpus is None else f"{cpus:g}",
        "pids": _UNLIMITED if pids is None else str(pids),
        **{f"{name} by best effort": what for name, what in replaced.items()},
    }


def _workspace(target: str, writable: bool) -> str:  # noqa: FBT001 - as binds have it
    return f"{target} ({'rw' if writable else 'ro'})"


def _named(name: str) -> Verb:
    verb = VERBS[name]
    assert isinstance(verb, Verb)
    return verb


def _of_own(name: str, summary: str) -> Verb:
    """Return a verb with the notebook's own container in the place of any."""
    verb = _named(name)
    flags = tuple(argument for argument in verb.arguments if argument.is_flag)
    return replace(verb, summary=summary, arguments=(*flags, _OWN))


OWN_VERBS: Mapping[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("info", "Show what this container is", (_OWN,), info),
        _of_own("stats", "Show what this container uses"),
        Verb(
            "limits",
            "Show the limits in force, or change them while the kernel runs",
            (MEMORY, CPUS, PIDS_LIMIT, _OWN),
            limits,
        ),
        Verb("packages", "Show what is installed in this container", (JSON, _OWN), packages),
        Verb("diff", "Show what this container changed of its image", (JSON, _OWN), diff),
        Verb("history", "Show the steps of its last commit, or another image", _READING, history),
        Verb(
            "provenance",
            "Show the cells behind its last commit, or another image",
            _READING,
            provenance,
        ),
        _of_own("logs", "Show what the kernel wrote beside its cells"),
        Verb(
            "commit",
            "Make an image of this container, while the kernel runs",
            tuple(each for each in _named("commit").arguments if each.names != ("container",)),
            commit,
        ),
        CHECKOUT,
        UNDO,
    )
}
LAST_VERBS = frozenset((CHECKOUT.name, UNDO.name))
"""Those after which the container is another, and a cell ends."""
