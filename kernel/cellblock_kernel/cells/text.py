"""Text from inside, made safe for terminals and notebooks.

Colours stay (SGR, ECMA-48 8.3.117), and so do tab, newline, carriage return and backspace, which
progress bars use. Every other control sequence goes: on a terminal they set titles, write the
clipboard and answer as if typed.
"""

from __future__ import annotations

import re

_CONTROL = re.compile(
    r"\x1b(?:"
    r"(?P<sgr>\[[0-9;:]*m)"
    r"|\[[0-?]*[ -/]*[@-~]"  # other control sequences
    r"|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC, DCS, SOS, PM and APC strings
    r"|[ -/]*[0-~]"
    r")?"
    r"|[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]"
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)\Z")
_MAX_HELD = 4096


def clean(text: str) -> str:
    """Return ``text`` without control sequences other than colours."""
    return _CONTROL.sub(_keep_colour, text)


def colourless(text: str) -> str:
    """Return ``text`` without any control sequence."""
    return _CONTROL.sub("", text)


def one_line(text: str, length: int) -> str:
    """Return ``text`` as at most ``length`` printable characters of one line."""
    words = " ".join(colourless(text[: length * 8]).split())
    return words if len(words) <= length else words[: length - 4] + " ..."


def _keep_colour(match: re.Match[str]) -> str:
    return match[0] if match["sgr"] else ""


class TextCleaner:
    """:func:`clean` for text that comes in pieces, which may split a sequence."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """Return what can be shown now."""
        text = self._held + text
        unfinished = _UNFINISHED.search(text, max(0, len(text) - _MAX_HELD))
        end = unfinished.start() if unfinished else len(text)
        self._held = text[end:]
        return clean(text[:end])

    def finish(self) -> str:
        """Return what was held back for a continuation that did not come."""
        held, self._held = self._held, ""
        return clean(held)
