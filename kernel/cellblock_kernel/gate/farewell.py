"""What front ends are told when another kernel takes the place of theirs: nothing stays open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .ledger import Ledger, Request
from .messages import Message, topic

SWAPPED = "KernelSwapped"
SWAPPED_LINE = (
    "another container has taken the kernel's place, and what this one was doing has ended"
)
_ERROR = {"ename": SWAPPED, "evalue": SWAPPED_LINE, "traceback": [SWAPPED_LINE]}


def farewells(ledger: Ledger) -> Iterator[tuple[str, Message]]:
    """Yield what is to be said, each with its channel, in order.

    Every open request has its reply and its ``status: idle``: an error where the kernel was at it,
    ``aborted`` where it was queued. Then comms are closed, and the kernel is restarting, and idle.
    """
    for request in ledger.open_requests():
        yield from _settled(request)
    for comm in ledger.open_comms():
        yield "iopub", _published("comm_close", {"comm_id": comm, "data": {}})
    for state in ("restarting", "idle"):
        yield "iopub", _published("status", {"execution_state": state})


def _settled(request: Request) -> Iterator[tuple[str, Message]]:
    if not request.replied:
        if request.begun and request.kind == "execute_request":
            yield "iopub", _published("error", _ERROR, request)
        content = {"status": "error", **_ERROR} if request.begun else {"status": "aborted"}
        yield (
            request.channel,
            Message.of(
                request.kind.removesuffix("_request") + "_reply",
                content,
                parent=request.message.header,
                identities=request.message.identities,
            ),
        )
    if not request.idle:
        yield "iopub", _published("status", {"execution_state": "idle"}, request)


def _published(kind: str, content: dict[str, Any], request: Request | None = None) -> Message:
    parent = None if request is None else request.message.header
    return Message.of(kind, content, parent=parent, identities=topic(kind))
