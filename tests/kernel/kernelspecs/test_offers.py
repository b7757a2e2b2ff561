"""What an image says that it offers is hostile: known fields, bounded, or one line."""

from __future__ import annotations

import json

import pytest

from cellblock_engine import InvalidInput
from cellblock_kernel.kernelspecs.offers import Listed, listed, of_python, read

GOOD = {
    "argv": ["R", "--slave", "-e", "IRkernel::main()", "--args", "{connection_file}"],
    "display_name": "R",
    "language": "R",
}


def given(**changes: object):
    return read(
        "ir", Listed("/usr/share/jupyter/kernels/ir", json.dumps(GOOD | changes).encode()), "r"
    )


def test_what_is_known_is_taken_and_nothing_else():
    offer = given(
        env={"R_HOME": "/usr/lib/R"},
        interrupt_mode="message",
        metadata={"kernel_provisioner": {"provisioner_name": "local-provisioner"}},
        resources={"logo": "file:///etc/passwd"},
    )
    assert offer.argv == tuple(GOOD["argv"])
    assert (offer.display_name, offer.language, offer.interrupt_mode) == ("R", "R", "message")
    assert offer.env == ("R_HOME=/usr/lib/R",)
    assert not offer.has_debugger
    assert of_python("python3").has_debugger
    assert given(argv=["py", "-m", "ipykernel_launcher", "-f", "{connection_file}"]).has_debugger


def test_a_kernels_own_folder_is_that_in_the_image():
    offer = given(argv=["java", "-jar", "{resource_dir}/k.jar", "--file={connection_file}"])
    assert offer.argv[2:] == ("/usr/share/jupyter/kernels/ir/k.jar", "--file={connection_file}")


def test_titles_cannot_steer_what_shows_them():
    offer = given(display_name="R\x1b]0;x\x07\n\u0007 4", language="R" * 1000)
    assert (offer.display_name, len(offer.language)) == ("R 4", 40)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"argv": None}, "argv is not a list"),
        ({"argv": []}, "argv is not a list"),
        ({"argv": "R {connection_file}"}, "argv is not a list"),
        ({"argv": ["R"] * 65}, "argv is not a list of 1 to 64"),
        ({"argv": ["R", 1, "{connection_file}"]}, "argv is not made of text"),
        ({"argv": ["R", ["x"], "{connection_file}"]}, "argv is not made of text"),
        ({"argv": ["R", "x\0y", "{connection_file}"]}, "NUL"),
        ({"argv": ["R", "x" * 5000, "{connection_file}"]}, "longer than 4096"),
        ({"argv": ["R", "\ud800", "{connection_file}"]}, "surrogates not allowed"),
        ({"argv": ["R"]}, "has to name {connection_file}"),
        ({"argv": ["R", "{prefix}", "{connection_file}"]}, "nothing else in braces"),
        ({"argv": ["R", "{env}", "{connection_file}"]}, "nothing else in braces"),
        ({"env": []}, "env is not an object"),
        ({"env": {"A": 1}}, "env A is not made of text"),
        ({"env": {"A=B": "x"}}, "no name of a variable"),
        ({"env": {"PATH": "/opt:${PATH}"}}, "in braces"),
        ({"env": {f"A{n}": "" for n in range(65)}}, "at most 64"),
        ({"interrupt_mode": "none"}, "neither signal nor message"),
        ({"interrupt_mode": ["signal"]}, "neither signal nor message"),
        ({"display_name": None}, "display_name is not made of text"),
        ({"display_name": "\x1b[2J"}, "display_name is empty"),
        ({"language": {}}, "language is not made of text"),
    ],
)
def test_odd_kernelspecs_are_refused_in_one_line(changes, message):
    with pytest.raises(InvalidInput, match="kernelspec ir of image r is refused") as refused:
        given(**changes)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no JSON",
        b"[1]",
        b"\xff\xfe",
        b"[" * 60_000,
        b'"' + b"x" * 70_000 + b'"',
        b'{"argv": NaN}',
    ],
    ids=["empty", "text", "list", "not text", "deep", "giant", "NaN"],
)
def test_what_is_no_kernelspec_is_refused_in_one_line(content):
    with pytest.raises(InvalidInput, match="is refused") as refused:
        read("ir", Listed("/k/ir", content), "r")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def entry(path: str, content: bytes = b"{}") -> bytes:
    return path.encode() + b"\n" + content + b"\0"


def test_a_listing_is_read_in_jupyters_order():
    found = listed(
        entry("/opt/share/jupyter/kernels/IR/kernel.json", b"first")
        + entry("/usr/share/jupyter/kernels/ir/kernel.json", b"second")
        + entry("/usr/share/jupyter/kernels/no name/kernel.json")
        + entry("/usr/share/jupyter/kernels/bash/kernel.json", b"a\nb"),
        "r",
    )
    assert found == {
        "ir": Listed("/opt/share/jupyter/kernels/IR", b"first"),
        "bash": Listed("/usr/share/jupyter/kernels/bash", b"a\nb"),
    }
    assert listed(b"", "r") == {}


@pytest.mark.parametrize(
    "listing",
    [
        b"hello\n",
        b"hello\n\0",
        entry("kernels/ir/kernel.json"),
        entry("/kernels/ir/other.json"),
        entry("/k/ir/kernel.json") + b"rest\x1b[2J",
        b"x" * (2 << 20),
        b"".join(entry(f"/k/{n}/kernel.json") for n in range(33)),
    ],
    ids=["text", "record", "relative", "other", "rest", "giant", "many"],
)
def test_a_listing_that_is_none_is_refused_in_one_line(listing):
    with pytest.raises(InvalidInput) as refused:
        listed(listing, "r")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300
