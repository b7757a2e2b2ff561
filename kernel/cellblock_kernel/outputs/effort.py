"""What a parser of HTML would do for a piece of markup: foreseen, because it has no bound itself.

html5ever follows the HTML standard, in which some markup costs the square of its length, or grows
to it: elements nested deeply, formatting that is opened again in each paragraph ("reconstruct the
active formatting elements", https://html.spec.whatwg.org/#formatting), thousands of attributes, or
of entities in one text. A megabyte of such takes minutes. Nothing here decides what is safe, only
what is affordable.
"""

from __future__ import annotations

import re

_PIECES = re.compile(
    r"<(?P<open>style|script)\b[^<>]*>|</(?P<close>style|script)\s*>|<!--|-->", re.I
)
_TAG = re.compile(
    r"<(?P<close>/?)(?P<name>[a-z][a-z0-9]*+)"
    r"(?P<attributes>(?:\s++[^\s\"'<>/=]++(?:\s*+=\s*+(?:\"[^\"]*+\"|'[^']*+'|[^\s\"'<>=`]++))?+)*+)"
    r"\s*+/?>|<",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"\"[^\"]*+\"|'[^']*+'")
_FORMATTING = "a b big code em font i nobr s small strike strong tt u".split()
_OPENED_FORMATTING = re.compile(rf"<(?:{'|'.join(_FORMATTING)})\b", re.IGNORECASE)
_VOID = frozenset(
    "area base br col embed hr img input link meta param source track wbr".split(),
)
_ENDED_BY_ITS_LIKE = frozenset("dd dt li p td th tr".split())
# Behind these a parser may read on in another way, so that end tags are not sure to be such.
_ODD = frozenset(
    "frameset iframe math noembed noframes noscript plaintext script select style svg template "
    "textarea title xmp".split()
)
# Of these each start tag makes an element, of which it begins a text of its own.
_ELEMENTS = frozenset(
    "a b blockquote code dd div dl dt em h1 h2 h3 h4 h5 h6 i li ol p pre span strong ul".split()
)
_CELLS = frozenset(("td", "th"))  # in a table
MOST_TAGS = 200_000
"""Markup with more of ``<`` is not worth a look."""
_MOST_DEPTH = 500
_MOST_STEPS = 20_000_000  # of some nanoseconds
_MOST_REOPENED = 200_000  # elements that the parser may add
_MOST_COPIED = 1 << 31  # bytes: a text that comes in pieces is copied for each
_MOST_ODD = 1 << 16


def bared(html: str) -> str:
    """Return markup without its comments, style sheets and scripts, in linear time."""
    kept: list[str] = []
    shown_from = 0
    inside: str | None = None
    for piece in _PIECES.finditer(html):
        opened = "--" if piece[0] == "<!--" else (piece["open"] or "").lower()
        closed = "--" if piece[0] == "-->" else (piece["close"] or "").lower()
        if inside is None and opened:
            kept.append(html[shown_from : piece.start()])
            inside, shown_from = opened, piece.start()
        elif inside is not None and closed == inside:
            inside, shown_from = None, piece.end()
    return "".join(kept) + html[shown_from:]


def is_affordable(html: str) -> bool:
    """Return whether a parser is done with it in some tenths of a second, in bounded memory."""
    depth_of: list[str] = []
    formatting = tables = steps = reopened = copied = 0
    run_from = 0
    for tag in _TAG.finditer(html):
        name = tag["name"]
        if name is None or (name := name.lower()) in _ODD:
            return _is_small(html)
        if not tag["close"]:
            if name in _ENDED_BY_ITS_LIKE and depth_of[-1:] == [name]:
                depth_of.pop()
            if name not in _VOID:
                depth_of.append(name)
                formatting += name in _FORMATTING
            tables += name == "table"
            steps += _number_of_attributes(tag["attributes"]) ** 2 // 8
            copied += _copied_bytes(html, tag.start(), tag.end())
            if name in _ELEMENTS or (tables and name in _CELLS):
                copied += _copied_bytes(html, run_from, tag.start())
                run_from = tag.end()
        elif depth_of[-1:] == [name]:
            depth_of.pop()
            formatting -= name in _FORMATTING
            tables -= name == "table"
        steps += len(depth_of)
        reopened += formatting
        if (
            len(depth_of) > _MOST_DEPTH
            or steps > _MOST_STEPS
            or reopened > _MOST_REOPENED
            or copied > _MOST_COPIED
        ):
            return False
    return copied + _copied_bytes(html, run_from, len(html)) <= _MOST_COPIED


def _copied_bytes(html: str, start: int, end: int) -> int:
    """Return how much is copied if this is one text, whose pieces end at entities and tags."""
    size = end - start
    if size < 1000:
        return size * size // 8
    pieces = sum(html.count(character, start, end) for character in "&<\0\r")
    return size * pieces // 2


def _number_of_attributes(text: str) -> int:
    """Return about how many there may be, rather too many."""
    if len(text) < 1000:
        return len(text) // 4
    return len(_QUOTED.sub("", text)) // 2


def _is_small(html: str) -> bool:
    """Return whether it is affordable whatever a parser takes its tags for."""
    if len(html) > _MOST_ODD:
        return False
    tags = html.count("<")
    formatting = len(_OPENED_FORMATTING.findall(html))
    return tags * tags // 2 <= _MOST_STEPS and tags * formatting <= _MOST_REOPENED
