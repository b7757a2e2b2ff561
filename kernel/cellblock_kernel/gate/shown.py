"""What an untrusted kernel may show: each kind of output rebuilt from what is safe of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from ..outputs.bundles import Reduced, reduce_bundle, reduce_metadata
from ..outputs.text import clean, colourless, one_line
from . import reading
from .messages import Message
from .turns import Cell

_STREAMS = ("stdout", "stderr")
_MOST_NAME = 200
_MOST_TRACEBACK = 1000


def reduced(data: object) -> Reduced:
    """Return what may be shown of a bundle as messages have it: JSON is parsed in them."""
    bundle: dict[str, str | bytes] = {}
    for mime, value in reading.mapping(data).items():
        if mime == "application/json":
            bundle[mime] = _json(value)
        elif isinstance(value, str | list):
            bundle[mime] = reading.text(value)
        else:
            bundle[mime] = b""  # named as lost
    if "text/plain" in bundle:
        bundle["text/plain"] = clean(reading.text(bundle["text/plain"]))
    return reduce_bundle(bundle)


def displayed(cell: Cell, message: Message, content: Mapping[str, Any]) -> list[Message]:
    """Return a display or a result, or the update of one that this cell has made."""
    kind = message.kind
    transient: dict[str, Any] = {}
    name = reading.mapping(content.get("transient")).get("display_id")
    if isinstance(name, str):
        ours = cell.display(name, is_new=kind != "update_display_data")
        transient = {} if ours is None else {"display_id": ours}
    if kind == "update_display_data" and not transient:
        return []
    shown = reduced(content.get("data"))
    cell.losses.add(shown.lost)
    said: dict[str, Any] = {
        "data": shown.data,
        "metadata": reduce_metadata(reading.mapping(content.get("metadata")), shown.data),
        "transient": transient,
    }
    if kind == "execute_result":
        said["execution_count"] = reading.number(content.get("execution_count"))
    return [published(cell, kind, said)]


def streamed(cell: Cell, _message: Message, content: Mapping[str, Any]) -> list[Message]:
    """Return text without commands to terminals."""
    name, text = content.get("name"), reading.text(content.get("text"))
    if name not in _STREAMS:
        return []
    return stream(cell, name, cell.cleaner(name).feed(text))


def stream(cell: Cell, name: str, text: str) -> list[Message]:
    """Return a stream's text as a message; none if there is none."""
    return [published(cell, "stream", {"name": name, "text": text})] if text else []


def executing(cell: Cell, _message: Message, content: Mapping[str, Any]) -> list[Message]:
    """Return what is executed: what was asked for, whatever the kernel says of it."""
    count = reading.number(content.get("execution_count"))
    return [published(cell, "execute_input", {"code": cell.code, "execution_count": count})]


def failed(cell: Cell, _message: Message, content: Mapping[str, Any]) -> list[Message]:
    """Return the exception that ended the cell."""
    return [published(cell, "error", failure(content))]


def failure(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return an exception's name, value and traceback."""
    return {
        "ename": one_line(reading.text(content.get("ename")), _MOST_NAME),
        "evalue": colourless(reading.text(content.get("evalue"))),
        "traceback": [
            clean(reading.text(line))
            for line in reading.items(content.get("traceback"))[:_MOST_TRACEBACK]
        ],
    }


def cleared(cell: Cell, _message: Message, content: Mapping[str, Any]) -> list[Message]:
    """Return that what was shown so far goes."""
    return [published(cell, "clear_output", {"wait": content.get("wait") is True})]


def published(cell: Cell, kind: str, content: Mapping[str, Any]) -> Message:
    """Return a new publication of a cell."""
    return publication(kind, content, cell.request.message.header)


def publication(kind: str, content: Mapping[str, Any], parent: Mapping[str, Any]) -> Message:
    """Return a new publication, under a topic of ours."""
    return Message.of(kind, content, parent=parent, identities=[zmq.Frame(kind.encode())])


OUTPUTS: dict[str, Callable[[Cell, Message, Mapping[str, Any]], list[Message]]] = {
    "stream": streamed,
    "display_data": displayed,
    "update_display_data": displayed,
    "execute_result": displayed,
    "execute_input": executing,
    "error": failed,
    "clear_output": cleared,
}


def _json(value: object) -> str | bytes:
    try:
        return json.dumps(value)
    except (ValueError, RecursionError):
        return b""
