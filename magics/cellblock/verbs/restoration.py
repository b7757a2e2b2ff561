"""checkout, undo: another image behind a notebook whose kernel is in a container.

What is to run is found, and the user asked, before anything changes; the kernel's gate then lets it
take over.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from cellblock_engine import HOST_IMAGE, ContainerInfo, InvalidInput, Unsupported, format_bytes

from .declaration import Argument, Call, Verb
from .outcome import Acknowledged

if TYPE_CHECKING:
    from cellblock_engine import Change

_YES = Argument(("-y", "--yes"), "do not ask", "flag")
_AGREED = ("y", "yes")


def checkout(call: Call) -> Acknowledged:
    """Let the kernel of an image take this one's place; return what that means."""
    return _restored(call, _present(call), call.arguments.image)


def undo(call: Call) -> Acknowledged:
    """Go back to the last commit of this container, or to what it was made from."""
    present = _present(call)
    return _restored(call, present, str(present.committed or present.image_id or HOST_IMAGE))


def _restored(call: Call, present: ContainerInfo, name: str) -> Acknowledged:
    from cellblock_kernel import find_successor, made_successor  # noqa: PLC0415 - only now

    if call.succeed is None:
        raise Unsupported("the kernel here is not in a container that could be swapped")
    # Containers inherit it from a spawner that is started now: it is meant for this process.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    kernel = find_successor(call.engine, present, name)
    changes = call.engine.diff(present.id, since_commit=True)
    lost = _loss(present, changes)
    if not call.arguments.yes:
        prompt = f"A new kernel begins in a container of {name}: {lost}. Go on? [y/N] "
        answer = call.asking.visible(prompt, otherwise=f"add --yes (-y): {lost}")
        if answer.lower() not in _AGREED:
            raise InvalidInput("nothing has changed: it goes on with the answer y only")
    call.succeed(made_successor(call.engine, kernel, name))
    return Acknowledged((f"A new kernel begins in a container of {name}: {lost}.",))


def _present(call: Call) -> ContainerInfo:
    return call.engine.container(call.arguments.container).inspect()


def _loss(present: ContainerInfo, changes: tuple[Change, ...]) -> str:
    """Return what is lost, in words; a directory in which something changed is not counted."""
    since = "since it was made" if present.committed is None else "since the last commit"
    own = [each for each in changes if (each.change, each.kind) != ("C", "directory")]
    if not own:
        return f"variables are lost; no file outside the notebook's folder has changed {since}"
    written_bytes = sum(each.size_bytes for each in own if each.change != "D")
    paths = "1 path" if len(own) == 1 else f"{len(own)} paths"
    return (
        f"variables are lost, and what has changed outside the notebook's folder {since}: {paths}, "
        f"{format_bytes(written_bytes)}"
    )


CHECKOUT = Verb(
    "checkout",
    "Go on with a new kernel in a container of another image",
    (_YES, Argument(("image",), "a reference or id of an image here", metavar="IMAGE")),
    checkout,
)
UNDO = Verb(
    "undo",
    "Go back to the last commit of this container, or to what it was made from",
    (_YES,),
    undo,
)
