"""What an untrusted kernel may say about itself: ``kernel_info_reply``, from an allow-list.

Front ends believe it: nbconvert imports what ``nbconvert_exporter`` names, and writes files with
its ``file_extension``; notebooks keep ``language_info``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..outputs.text import colourless, one_line
from . import reading

_PLAIN = {
    "name": re.compile(r"[A-Za-z0-9_+# -]{1,40}"),
    "version": re.compile(r"[A-Za-z0-9_.+-]{1,40}"),
    "mimetype": re.compile(r"[a-z]+/[a-z0-9.+-]{1,60}"),
    "file_extension": re.compile(r"\.[A-Za-z0-9]{1,10}"),
    "pygments_lexer": re.compile(r"[a-z0-9_+#-]{1,40}"),
    "codemirror_mode": re.compile(r"[A-Za-z0-9_+#-]{1,40}"),
    "nbconvert_exporter": re.compile(r"python|script"),
}
_PROTOCOL = re.compile(r"5\.\d{1,2}(?:\.\d{1,2})?")
_LINK = re.compile(r"https?://[^\s\"'<>\\]{1,300}", re.ASCII)
_FEATURES = ("kernel subshells",)
_MOST_BANNER, _MOST_LINKS = 4000, 20


def introduction(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a ``kernel_info_reply`` with status ok passes: never a debugger."""
    said = reading.mapping(content.get("language_info"))
    language: dict[str, Any] = {
        name: said[name] for name in _PLAIN if _is_plain(name, said.get(name))
    }
    mode = reading.mapping(said.get("codemirror_mode"))
    if _is_plain("codemirror_mode", mode.get("name")):
        version = reading.number(mode.get("version"))
        language["codemirror_mode"] = {"name": mode["name"], "version": version}
    protocol = reading.text(content.get("protocol_version"))
    features = reading.items(content.get("supported_features"))
    return {
        "status": "ok",
        "protocol_version": protocol if _PROTOCOL.fullmatch(protocol) else "5.3",
        "implementation": one_line(reading.text(content.get("implementation")), 60),
        "implementation_version": one_line(reading.text(content.get("implementation_version")), 60),
        "language_info": {"name": "unknown", "version": "", "mimetype": "text/plain"}
        | {"file_extension": ".txt"}
        | language,
        "banner": colourless(reading.text(content.get("banner"))[:_MOST_BANNER]),
        "help_links": [
            {"text": one_line(reading.text(link.get("text")), 100), "url": link["url"]}
            for link in reading.items(content.get("help_links"))[:_MOST_LINKS]
            if isinstance(link, dict) and _LINK.fullmatch(reading.text(link.get("url")))
            if isinstance(link["url"], str)
        ],
        "supported_features": [name for name in _FEATURES if name in features],
        "debugger": False,
    }


def _is_plain(name: str, value: object) -> bool:
    return isinstance(value, str) and _PLAIN[name].fullmatch(value) is not None
