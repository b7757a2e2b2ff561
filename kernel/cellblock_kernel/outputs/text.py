"""Text from inside, made safe for terminals and notebooks.

Colours stay (SGR, ECMA-48 8.3.117), and so do tab, newline, carriage return and backspace, which
progress bars use. Every other control sequence goes: on a terminal they set titles, write the
clipboard and answer as if typed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_CONTROL = re.compile(
    r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff](?:(?<=\x1b)(?:"
    r"(?P<sgr>\[[0-9;:]{0,64}m)"
    r"|\[[0-?]*[ -/]*[@-~]"  # other control sequences
    r"|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC, DCS, SOS, PM and APC strings
    r"|[ -/]*[0-~]"
    r"))?"
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)\Z")
_MAX_HELD = 4096
_C0 = bytes({*range(0x20), 0x7F} - set(b"\b\t\n\r"))
_C1 = [chr(number).encode() for number in range(0x80, 0xA0)]
_LARGE = 1 << 20
_MAX_SEQUENCES = 1_000_000


def clean(text: str) -> str:
    """Return ``text`` without control sequences other than colours, and without lone surrogates.

    Text with more than a million of them loses its colours too.
    """
    return _cleaned(text, _keep_colour)


def colourless(text: str) -> str:
    """Return ``text`` without any control sequence."""
    return _cleaned(text, _keep_nothing)


def one_line(text: str, length: int) -> str:
    """Return ``text`` as at most ``length`` printable characters of one line."""
    words = " ".join(colourless(text[: length * 8]).split())
    words = "".join(filter(str.isprintable, words))  # nor what turns the direction of writing
    return words if len(words) <= length else words[: length - 4] + " ..."


def _cleaned(text: str, keep: Callable[[re.Match[str]], str]) -> str:
    if len(text) > _LARGE:  # what is ten times as fast may well be enough
        bare = _bare(text)
        if not 0 < len(text) - len(bare) <= _MAX_SEQUENCES:
            return bare
    return _CONTROL.sub(keep, text)


def _bare(text: str) -> str:
    """Return ``text`` without control characters; what followed them stays."""
    data = text.encode("utf-8", "ignore").translate(None, _C0)
    if not text.isascii():
        for character in _C1:
            data = data.replace(character, b"")
    return data.decode()


def _keep_colour(match: re.Match[str]) -> str:
    return match[0] if match["sgr"] else ""


def _keep_nothing(_match: re.Match[str]) -> str:
    return ""


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
