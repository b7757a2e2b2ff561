"""HTML and SVG of a hostile cell: what is left shows, and cannot act, load or be looked up."""

from __future__ import annotations

import base64

import pytest

from cellblock_kernel.outputs.markup import sanitised, svg_as_image

PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    "html",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<svg onload=alert(1)><script>alert(1)</script></svg>",
        "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
        "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
        "<a href='javascript:alert(1)'>x</a>",
        "<a href=' java\tscript:alert(1)'>x</a>",
        "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
        "<object data=javascript:alert(1)></object><embed src=javascript:alert(1)>",
        "<form action=javascript:alert(1)><button formaction=javascript:alert(1)>b</button></form>",
        "<template><script>alert(1)</script></template>",
        "<noscript><p title='</noscript><img src=x onerror=alert(1)>'></noscript>",
        "<details ontoggle=alert(1) open>x</details>",
        "<p style='background:expression(alert(1))'>x</p>",
    ],
)
@pytest.mark.attack(58)
def test_no_script_is_left(html):
    safe, _ = sanitised(html)
    assert "alert" not in (safe or "")


@pytest.mark.parametrize(
    "html",
    [
        "<img src=https://evil.example/p.png>",
        "<img src=//evil.example/p.png>",
        "<img src=/api/contents>",
        "<img srcset='https://evil.example/p.png 1x'>",
        "<img src='data:text/html,https://evil.example/'>",
        "<p style='background-image: url(https://evil.example/)'>x</p>",
        "<p style='background-color: url(https://evil.example/)'>x</p>",
        "<p style='color: image-set(\"https://evil.example/\" 1x)'>x</p>",
        "<p style='width: \\75rl(https://evil.example/)'>x</p>",
        "<style>@import 'https://evil.example/';</style>",
        "<link rel=stylesheet href=https://evil.example/>",
        "<meta http-equiv=refresh content='0;url=https://evil.example/'>",
        "<base href=https://evil.example/>",
        "<video poster=https://evil.example/ src=https://evil.example/></video>",
        "<table background=https://evil.example/></table>",
        "<input type=image src=https://evil.example/>",
        "<blockquote cite=https://evil.example/>x</blockquote>",
    ],
)
@pytest.mark.attack(59)
def test_nothing_is_loaded_from_anywhere(html):
    safe, _ = sanitised(html)
    assert "evil" not in (safe or "")
    assert "/api" not in (safe or "")


@pytest.mark.attack(60)
def test_command_links_and_clobbering_names_are_stripped():
    safe, _ = sanitised(
        "<b id=x name=y class='jp-Dialog lm-Widget' data-commandlinker-command=docmanager:open "
        "data-commandlinker-args={} data-x=1 contenteditable tabindex=1>t</b>"
    )
    assert safe == "<b>t</b>"


def test_nothing_is_laid_over_the_page():
    safe, _ = sanitised(
        "<p style='position: fixed; top: 0; z-index: 9; margin-left: -99px; margin: 0 -1px; "
        "transform: scale(9); color: red'>t</p>"
    )
    assert safe == '<p style="color: red">t</p>'


def test_tables_pictures_and_links_stay():
    html = (
        '<table border="1" class="dataframe"><tbody><tr style="text-align: right">'
        f'<td colspan="2"><img src="{PIXEL}" width="3"></td></tr></tbody></table>'
        '<a href="https://docs.example/" rel="noopener noreferrer">d</a>'
        '<p style="color: rgb(1, 2, 3); border: 1px solid #fff">p</p>'
    )
    assert sanitised(html) == (html, [])


def test_a_page_that_is_too_large_is_not_shown():
    assert sanitised("x" * (9 << 20)) == (None, ["HTML above 8 MiB"])


def test_svg_is_the_source_of_an_image():
    svg = '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
    html = svg_as_image(svg)
    assert html is not None
    data = base64.b64encode(svg.encode()).decode()
    assert html == f'<img alt="SVG image" src="data:image/svg+xml;base64,{data}">'


@pytest.mark.parametrize(
    "svg",
    ["", "<p>", "<svgx>", '<!DOCTYPE svg [<!ENTITY a "b">]><svg/>', "<svg>" + "x" * (9 << 20)],
)
def test_what_is_no_plain_svg_is_none(svg):
    assert svg_as_image(svg) is None
