"""What a notebook shows of a MIME bundle from inside a container.

Nothing in a bundle is trusted: plain text, JSON, images that are what they say and sanitised
HTML pass; the rest is reduced to text, and what was lost is named. ``trusted_bundle`` is for the
user who says ``--trust-output``. Values are text, or bytes; images may be either, then text is
base64, and JSON is text.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .markup import sanitised, svg_as_image
from .text import clean, one_line

_IMAGES = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff", "image/gif": b"GIF8"}
_MAX_PIXELS = 20_000
_MAX_JSON = 8 << 20
_MAX_VALUES, _MAX_DEPTH = 100_000, 100  # of JSON
_MAX_NAMES, _MAX_NAME = 100, 60
_WIDGET = "application/vnd.jupyter.widget-view+json"
_AS_TEXT = {"text/markdown": "Markdown", "text/latex": "LaTeX"}
_NAMES = {
    "application/javascript": "JavaScript",
    "application/pdf": "PDF",
    "image/svg+xml": "SVG",
    "application/vnd.plotly": "Plotly",
    "application/vnd.vegalite": "Altair",
    "application/vnd.vega": "Vega",
    "application/vnd.bokehjs": "Bokeh",
    "application/vnd.holoviews": "HoloViews",
    "application/vnd.jupyter.widget": "a widget",
}
_UNTOLD = ("application/vnd.dataresource",)  # pandas' option; the table is shown


@dataclass(frozen=True)
class Reduced:
    """What is shown of a bundle, and the names of what is not."""

    data: dict[str, object]
    lost: list[str] = field(default_factory=list)


def reduce_bundle(bundle: Mapping[str, str | bytes]) -> Reduced:
    """Return what a notebook shows safely. A bundle of which nothing is left says so.

    Images are base64, as notebooks keep them. SVG becomes HTML of one image.
    """
    data: dict[str, object] = {}
    rest = dict(bundle)
    text = rest.pop("text/plain", None)
    if isinstance(text, str):
        data["text/plain"] = text
    for mime, magic in _IMAGES.items():
        raw = _decoded(rest.get(mime, b""))
        if raw.startswith(magic):
            data[mime] = base64.b64encode(raw).decode("ascii")
            del rest[mime]
    html, lost = _markup(rest.pop("text/html", None), rest.pop("image/svg+xml", None))
    if html is not None:
        data["text/html"] = html
    value = rest.pop("application/json", None)
    if isinstance(value, str) and len(value) <= _MAX_JSON:
        data |= _parsed("application/json", value)
    for mime, name in _AS_TEXT.items():
        source = rest.pop(mime, None)
        if isinstance(source, str) and not data.keys() - {"text/plain"}:
            if str(data.get("text/plain", "<")).startswith("<"):  # an object's bare repr
                data["text/plain"] = clean(source)
            lost.append(f"{name} (shown as text)")
    lost += [_name(mime) for mime in sorted(rest)[:_MAX_NAMES] if not mime.startswith(_UNTOLD)]
    if not data:
        names = [one_line(mime, _MAX_NAME) for mime in sorted(bundle)[:_MAX_NAMES]]
        data = {"text/plain": f"<not shown: {', '.join(names) or 'nothing'}>"}
    return Reduced(data, lost)


def _markup(html: str | bytes | None, svg: str | bytes | None) -> tuple[str | None, list[str]]:
    """Return safe HTML of either, the first if it shows something, and what was lost."""
    lost: list[str] = []
    if isinstance(html, str):
        safe, lost = sanitised(html)
        if safe is not None and safe.strip():
            return safe, lost
    if isinstance(svg, str):
        image = svg_as_image(svg)
        return image, lost if image is not None else [*lost, "SVG"]
    return None, lost


def trusted_bundle(bundle: Mapping[str, str | bytes]) -> Reduced:
    """Return all of a bundle in the form that notebooks keep, but for widgets of no kernel."""
    data: dict[str, object] = {}
    for mime, value in bundle.items():
        if mime == _WIDGET:
            continue
        if isinstance(value, bytes):
            data[mime] = base64.b64encode(value).decode("ascii")
        elif mime.endswith("json"):
            data |= _parsed(mime, value)
        else:
            data[mime] = value
    return Reduced(data, [_name(_WIDGET)] if _WIDGET in bundle else [])


def reduce_metadata(
    metadata: Mapping[str, object], data: Mapping[str, object]
) -> dict[str, object]:
    """Return the sizes in pixels that ``metadata`` gives for the images of ``data``."""
    reduced: dict[str, object] = {}
    for mime in _IMAGES.keys() & data.keys():
        given = metadata.get(mime)
        if isinstance(given, dict):
            reduced[mime] = {
                side: given[side]
                for side in ("width", "height")
                if type(given.get(side)) is int and 0 < given[side] <= _MAX_PIXELS
            }
    return reduced


class Losses:
    """What the outputs of one cell lost, told in one line at its end."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, names: list[str]) -> None:
        """Note what one output lost."""
        if len(self._names) < _MAX_NAMES:
            self._names |= dict.fromkeys(names)

    def lines(self, remedy: str) -> Iterator[str]:
        """Yield the line, if there is anything to tell; ``remedy`` says how it could be shown."""
        if self._names:
            names = list(self._names)
            more = f" and {len(names) - 8} more kinds" if len(names) > 8 else ""
            yield (f"cellblock: reduced for safety: {', '.join(names[:8])}{more}; {remedy}\n")


def _name(mime: str) -> str:
    for start, name in _NAMES.items():
        if mime.startswith(start):
            return name
    return one_line(mime, _MAX_NAME)


def _parsed(mime: str, value: str) -> dict[str, object]:
    try:
        plain = json.loads(value)
        json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()  # no NaN, no half a pair
    except (ValueError, RecursionError):
        return {}
    return {mime: plain} if _is_shallow(plain) else {}


def _is_shallow(plain: object) -> bool:
    """Return whether a front end can copy and draw it: not too many values, not too deep."""
    level, seen = [plain], 0
    for _ in range(_MAX_DEPTH):
        seen += len(level)
        if not level or seen > _MAX_VALUES:
            break
        deeper: list[object] = []
        for value in level:
            if isinstance(value, dict):
                deeper += value.values()
            elif isinstance(value, list):
                deeper += value
        level = deeper
    return not level


def _decoded(value: str | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        return b""
