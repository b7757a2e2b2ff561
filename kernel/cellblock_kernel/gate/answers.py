"""What an untrusted kernel may reply: each kind rebuilt from what front ends need of it.

Nothing that acts on the front end is among it: no payloads, no comms, no debugger.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ..outputs.text import colourless, one_line
from . import reading
from .introduction import introduction
from .shown import failure, reduced
from .turns import Cell

_Content = Mapping[str, Any]
_MOST_NAME = 200
_MOST_INDENT = 100
_COMPLETENESS = ("complete", "incomplete", "invalid")
_TYPE = re.compile(r"[A-Za-z0-9_ ]{1,40}")
_SUBSHELL = re.compile(r"[A-Za-z0-9_-]{1,100}")


def answer(kind: str, content: _Content, cell: Cell | None) -> dict[str, Any] | None:
    """Return what passes of a reply, None for a kind that does not; ``cell`` is an execution's."""
    build = _KINDS.get(kind)
    if build is None:
        return None
    status = content.get("status")
    if kind == "is_complete_reply":
        return build(content, cell)
    if status in ("error", "abort", "aborted"):
        told = {"status": status, **failure(content)}
    elif status == "ok":
        told = {"status": "ok", **build(content, cell)}
    else:
        told = {"status": "error", **failure({"ename": "NoReply", "evalue": "not understood"})}
    if kind == "execute_reply":
        told["execution_count"] = reading.number(content.get("execution_count"))
        told["payload"] = []
        told.setdefault("user_expressions", {})
    return told


def _executed(content: _Content, cell: Cell | None) -> dict[str, Any]:
    said = reading.mapping(content.get("user_expressions"))
    asked = cell.expressions if cell is not None else ()
    return {
        "user_expressions": {
            name: _expression(reading.mapping(said[name]), cell) for name in asked if name in said
        }
    }


def _expression(said: _Content, cell: Cell | None) -> dict[str, Any]:
    if said.get("status") != "ok":
        return {"status": "error", **failure(said)}
    shown = reduced(said.get("data"))
    if cell is not None:
        cell.losses.add(shown.lost)
    return {"status": "ok", "data": shown.data, "metadata": {}}


def _inspected(content: _Content, _cell: Cell | None) -> dict[str, Any]:
    found = content.get("found") is True
    data = reduced(content.get("data")).data if found else {}
    return {"found": found, "data": data, "metadata": {}}


def _completed(content: _Content, _cell: Cell | None) -> dict[str, Any]:
    types = reading.mapping(content.get("metadata")).get("_jupyter_types_experimental")
    return {
        "matches": [colourless(reading.text(one)) for one in reading.items(content.get("matches"))],
        "cursor_start": reading.number(content.get("cursor_start")),
        "cursor_end": reading.number(content.get("cursor_end")),
        "metadata": {
            "_jupyter_types_experimental": [
                _typed(one) for one in reading.items(types) if isinstance(one, dict)
            ]
        }
        if types
        else {},
    }


def _typed(said: _Content) -> dict[str, Any]:
    """Return a match with its type, which front ends also make a class of."""
    of = reading.text(said.get("type"))
    return {
        "start": reading.number(said.get("start")),
        "end": reading.number(said.get("end")),
        "text": colourless(reading.text(said.get("text"))),
        "type": of if _TYPE.fullmatch(of) else "",
        "signature": one_line(reading.text(said.get("signature")), _MOST_NAME),
    }


def _is_complete(content: _Content, _cell: Cell | None) -> dict[str, Any]:
    status = content.get("status")
    told = {"status": status if status in _COMPLETENESS else "unknown"}
    if status == "incomplete":
        indent = reading.text(content.get("indent"))[:_MOST_INDENT]
        told["indent"] = indent if indent.isspace() else ""
    return told


def _history(content: _Content, _cell: Cell | None) -> dict[str, Any]:
    entries = reading.items(content.get("history"))
    return {"history": [_entry(one) for one in entries if isinstance(one, list) and len(one) == 3]}


def _entry(said: list[Any]) -> list[Any]:
    session, line, source = said
    place = [reading.number(session), reading.number(line)]
    if isinstance(source, list):
        return [*place, [None if one is None else colourless(reading.text(one)) for one in source]]
    return [*place, colourless(reading.text(source))]


def _shut_down(content: _Content, _cell: Cell | None) -> dict[str, Any]:
    return {"restart": content.get("restart") is True}


def _subshell(content: _Content, _cell: Cell | None) -> dict[str, Any]:
    name = reading.text(content.get("subshell_id"))
    return {"subshell_id": name if _SUBSHELL.fullmatch(name) else ""}


def _subshells(content: _Content, _cell: Cell | None) -> dict[str, Any]:
    names = [reading.text(one) for one in reading.items(content.get("subshell_id"))]
    return {"subshell_id": [name for name in names if _SUBSHELL.fullmatch(name)]}


def _introduced(content: _Content, _cell: Cell | None) -> dict[str, Any]:
    return introduction(content)


def _no_comms(_content: _Content, _cell: Cell | None) -> dict[str, Any]:
    return {"comms": {}}


def _no_more(_content: _Content, _cell: Cell | None) -> dict[str, Any]:
    return {}


_KINDS: dict[str, Callable[[_Content, Cell | None], dict[str, Any]]] = {
    "execute_reply": _executed,
    "inspect_reply": _inspected,
    "complete_reply": _completed,
    "is_complete_reply": _is_complete,
    "history_reply": _history,
    "kernel_info_reply": _introduced,
    "comm_info_reply": _no_comms,
    "shutdown_reply": _shut_down,
    "interrupt_reply": _no_more,
    "create_subshell_reply": _subshell,
    "list_subshell_reply": _subshells,
    "delete_subshell_reply": _no_more,
}
REQUESTS = frozenset(kind.replace("_reply", "_request") for kind in _KINDS)
"""What may be asked of an untrusted kernel: of all else the answer would not pass."""
