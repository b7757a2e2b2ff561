"""One cell that is carried out on this machine: how it is told from others, how far it has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from .messages import Message
from .operation import Operation

_WORDS = ("%container", "%%container")


@dataclass(slots=True)
class HostCell:
    """One host cell: what was asked, what the kernel has said, and what goes on.

    ``before`` are the cells that the kernel owes an answer first, and whether their failure
    aborts this one; ``aborted`` says that one has failed. ``question`` is the id of what the user
    is being asked, ``behind`` what the kernel asks meanwhile.
    """

    request: Message
    before: dict[str, bool]
    count: int | None = None
    is_shown: bool = False
    is_aborted: bool = False
    reply: Message | None = None
    idle: Message | None = None
    operation: Operation | None = None
    question: str = ""
    behind: list[Message] = field(default_factory=list)
    is_handing_over: bool = False
    held: list[Message] = field(default_factory=list)


def is_host_cell(request: Message) -> bool:
    """Return whether a front end asks for something to be carried out on this machine."""
    code = request.content.get("code")
    if not isinstance(code, str):
        return False
    word, *_ = code.split(maxsplit=1) or [""]
    return word in _WORDS


def sender(message: Message) -> list[bytes]:
    """Return which client a message is from."""
    return [frame.bytes for frame in message.identities]


def count_of(message: Message) -> int | None:
    """Return the number that a kernel has given a cell, None for none."""
    number = message.content.get("execution_count")
    return number if isinstance(number, int) else None
