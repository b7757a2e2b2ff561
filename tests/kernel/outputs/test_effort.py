"""Markup that a parser would sit over for minutes is known before it is parsed."""

from __future__ import annotations

import time

import pytest

from cellblock_kernel.outputs.effort import bared, is_affordable
from cellblock_kernel.outputs.markup import sanitised, svg_as_image

SIZE = 8 << 20


def full(text):
    return text * (SIZE // len(text))


@pytest.mark.parametrize(
    "html",
    [
        full("<div>"),
        "<div>" * 100_000,
        "<?>" + "<div>" * 12_000,
        "<!-- -->" * 20_000 + "<div>" * 100_000,
        "<p>" + "".join(f"<b title={n}>" for n in range(2000)) + "</p>" + "<p>x</p>" * 2000,
        "<p " + " ".join(f"a{n}" for n in range(100_000)) + ">",
        "&" * SIZE,
        "<p title='" + "&" * 1_000_000 + "'>",
        "<table>" + "x&" * 1_000_000,
        "x<br>" * 150_000,
        "x</x>" * 150_000,
        full("<"),
        full("<img"),
        full("<style>"),
        full("<!--"),
        "<a " + " " * SIZE,
    ],
    ids=range(16),
)
@pytest.mark.attack(58)
def test_no_markup_takes_long(html):
    started = time.monotonic()
    sanitised(html[:SIZE])
    assert time.monotonic() - started < 8, "a second where nothing else runs"


@pytest.mark.attack(58)
def test_no_beginning_of_a_picture_takes_long():
    started = time.monotonic()
    assert svg_as_image("<!---->" * 580) is None
    assert svg_as_image(" " * SIZE) is None
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "html",
    [
        "<table>" + ("<tr>" + "<td>1.23</td>" * 20 + "</tr>") * 4000 + "</table>",
        "<style scoped>p > b { color: red }</style>" + "<p><b>x</b> &lt; 3</p>" * 30_000,
        "<ul>" + "<li>x" * 50_000,
        "<p>" + "<svg><title>x</title></svg>" * 100,
        "<pre>" + "if a &lt; b &amp;&amp; c:\n" * 2000 + "</pre>",
    ],
    ids=["table", "style", "list", "inline SVG", "code"],
)
def test_what_libraries_write_is_affordable(html):
    assert is_affordable(bared(html))


@pytest.mark.parametrize(
    ("html", "left"),
    [
        ("a<!-- b -->c", "ac"),
        ("a<style x>b</STYLE >c<script>d<!--</script>e", "ace"),
        ("a<style>b", "a<style>b"),
        ("a-->b</style>c", "a-->b</style>c"),
        ("<!-- <style> -->b</style>", "b</style>"),
    ],
)
def test_bared(html, left):
    assert bared(html) == left
