"""HTML and SVG from inside a container, made safe to put on the user's page.

Markup may show, not act: no script, no style sheet, no form, nothing that loads from anywhere
(images are ``data:`` URLs), no names that a page's own code would look up (``id``, ``name``,
``data-*`` of JupyterLab's command linker, classes). Links go out by a click only. It is no
renderer: what is not on the lists below is gone. Nor is it shown if a parser had too much to do.
"""

from __future__ import annotations

import base64
import re

from .effort import MOST_TAGS, bared, is_affordable

_TAGS = frozenset(
    "a abbr b bdi bdo blockquote br caption center cite code col colgroup dd del details dfn div "
    "dl dt em figcaption figure h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark ol p pre q rp rt ruby "
    "s samp small span strike strong sub summary sup table tbody td tfoot th thead time tr tt u "
    "ul var wbr".split()
)
_GONE_WITH_CONTENT = frozenset(
    "script style svg math template noscript title iframe object textarea select".split()
)
_ATTRIBUTES = {
    "*": {"style", "title", "dir", "lang", "align", "valign"},
    "a": {"href"},
    "img": {"src", "alt", "width", "height"},
    "table": {"border", "cellpadding", "cellspacing"},
    "td": {"colspan", "rowspan", "width", "height"},
    "th": {"colspan", "rowspan", "scope", "width", "height"},
    "col": {"span", "width"},
    "colgroup": {"span", "width"},
    "ol": {"start", "type"},
    "li": {"value"},
    "details": {"open"},
}
_CLASSES = {"table": {"dataframe"}}  # pandas' own, which front ends give their table style
_STYLES = frozenset(
    "background-color border border-bottom border-collapse border-color border-left border-radius "
    "border-right border-spacing border-style border-top border-width color display font-family "
    "font-size font-style font-variant font-weight height letter-spacing line-height "
    "list-style-type margin margin-bottom margin-left margin-right margin-top max-height max-width "
    "min-height min-width opacity overflow overflow-x overflow-y padding padding-bottom "
    "padding-left padding-right padding-top text-align text-decoration text-indent text-transform "
    "vertical-align white-space width word-break word-wrap".split()
)
# No function but colours, no escape, no negative length that would move it over the page.
_STYLE_VALUE = re.compile(
    r"(?:(?:rgb|rgba|hsl|hsla)\([0-9.,%/\s]*\)|(?<![\w.])-(?![\d.])|[\w#%.,\s'\"!]|(?<=\w)-)*",
    re.ASCII,
)
_IMAGE_URL = re.compile(r"data:image/(?:png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]*")
_LINK = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
_MAX_MARKUP = 8 << 20
_TOO_MUCH = "HTML that takes too long to read"

_TELLING = {
    "scripts": re.compile(r"<script\b|[\s\"'/]on[a-z]{3,30}\s*=|javascript:", re.IGNORECASE),
    "style sheets": re.compile(r"<style(?!\s+scoped)\b|<link\b", re.IGNORECASE),
    "frames and plug-ins": re.compile(r"<(?:iframe|object|embed)\b", re.IGNORECASE),
    "forms": re.compile(r"<(?:form|input|button|select|textarea)\b", re.IGNORECASE),
    "inline SVG": re.compile(r"<svg\b", re.IGNORECASE),
    "sound and video": re.compile(r"<(?:audio|video)\b", re.IGNORECASE),
    "remote images": re.compile(r"<img\b[^<>]{0,999}?\ssrc\s*=\s*+(?![\"']?data:)", re.IGNORECASE),
}
_SVG_START = re.compile(r"(?>\s+|<\?xml[^>]*>|<!--.*?-->|<!DOCTYPE[^>\[]*>)*+<svg[\s>]", re.DOTALL)


def sanitised(html: str) -> tuple[str | None, list[str]]:
    """Return the safe part of ``html`` and what kinds of things it lost.

    None stands for markup of which nothing may be shown, because it is above 8 MiB or so nested
    that it would take long.
    """
    if len(html) > _MAX_MARKUP:
        return None, ["HTML above 8 MiB"]
    if html.count("<") > MOST_TAGS:
        return None, [_TOO_MUCH]
    lost = [what for what, sign in _TELLING.items() if sign.search(html)]
    html = bared(html.encode("utf-8", "replace").decode())  # nh3 refuses half a pair
    if not is_affordable(html):
        return None, [*lost, _TOO_MUCH]
    import nh3  # noqa: PLC0415 - what most cells do not need

    safe = nh3.clean(
        html,
        tags=set(_TAGS),
        clean_content_tags=set(_GONE_WITH_CONTENT),
        attributes=_ATTRIBUTES,
        attribute_filter=_attribute,
        url_schemes={"http", "https", "mailto", "data"},
        url_relative="deny",
        allowed_classes=_CLASSES,
        generic_attribute_prefixes=set(),
        link_rel="noopener noreferrer",
    )
    return safe, lost


def svg_as_image(svg: str) -> str | None:
    """Return HTML that shows ``svg`` as a picture, or None if it is none or above 8 MiB.

    As the source of an ``<img>`` it runs no script and loads nothing ("secure static mode",
    https://svgwg.org/specs/integration/#secure-static-mode), whatever is in it.
    """
    if len(svg) > _MAX_MARKUP or "<!ENTITY" in svg or not _SVG_START.match(svg[:4096]):
        return None
    data = base64.b64encode(svg.encode("utf-8", "replace")).decode("ascii")
    return f'<img alt="SVG image" src="data:image/svg+xml;base64,{data}">'


def _attribute(tag: str, name: str, value: str) -> str | None:
    """Return an attribute's safe value, or None."""
    if name == "src":
        return value if tag == "img" and _IMAGE_URL.fullmatch(value) else None
    if name == "href":
        return value if _LINK.match(value) else None
    if name == "style":
        return _style(value) or None
    return value


def _style(text: str) -> str:
    kept = []
    for declaration in text.split(";"):
        name, _, value = declaration.partition(":")
        name = name.strip().lower()
        if name in _STYLES and _STYLE_VALUE.fullmatch(value):
            kept.append(f"{name}: {value.strip()}")
    return "; ".join(kept)
