"""What a lock says in a notebook's metadata, which anybody may have written."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cellblock_engine import Digest, InvalidInput, Package, Platform, Reference
from cellblock_kernel.notebooks.lock import Lock, Pin, differences, listed

ONE, TWO = (Digest.of(text) for text in (b"1", b"2"))
LOCK = Lock(
    Reference.parse("registry.lan:5000/mine/lab:1"),
    Pin(ONE, TWO),
    Platform("linux", "arm64"),
    "python3",
    None,
    {"debian": {"libc6": "2.36-9"}, "python": {"numpy": "2.1.0"}},
)


def written(lock=LOCK, **other):
    return json.loads(json.dumps(lock.metadata({"kernelspec": {}, "cellblock": other})))


def test_what_is_written_is_read():
    found = written(theirs=1)
    assert found["theirs"] == 1
    assert found["lock"]["image"] == "registry.lan:5000/mine/lab:1"
    assert found["lock"]["packages"]["python"] == {"numpy": "2.1.0"}
    assert Lock.parse({"cellblock": found}, "n.ipynb") == LOCK
    made = replace(LOCK, base=Pin(TWO, ONE))
    assert Lock.parse({"cellblock": written(made)}, "n.ipynb") == made
    assert LOCK.metadata({"cellblock": "no object"})["lock"] == found["lock"]


@pytest.mark.parametrize("metadata", [{}, {"cellblock": 1}, {"cellblock": {}}, {"cellblock": []}])
def test_a_notebook_that_is_not_locked_is_told_how(metadata):
    with pytest.raises(InvalidInput, match=r"n\.ipynb is not locked to an image: see"):
        Lock.parse(metadata, "n.ipynb")


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("version", 2),
        ("version", None),
        ("image", "../../etc/passwd"),
        ("image", "host image"),
        ("image", None),
        ("image", ["a"]),
        ("image", "a" * 10_000),
        ("id", "sha256:../../x"),
        ("id", "sha512:" + "0" * 128),
        ("id", 3),
        ("manifest", "sha256:" + "A" * 64),
        ("manifest", f"{ONE}\n"),
        ("platform", "linux/arm64/v8/../x"),
        ("kernel", "../python3"),
        ("kernel", "a" * 41),
        ("base", "sha256"),
        ("base", {"id": str(ONE)}),
        ("packages", None),
        ("packages", []),
        ("packages", {"python": ["numpy"]}),
        ("packages", {"python": {"numpy": 2}}),
        ("packages", {"python": {"numpy\x1b[2J": "2"}}),
        ("packages", {"python": {"numpy": "2\n3"}}),
        ("packages", {"python": {"n" * 501: "2"}}),
        ("packages", {"python": {str(n): "" for n in range(100_001)}}),
        ("packages", {str(n): {} for n in range(17)}),
    ],
)
def test_hostile_locks_are_refused_in_one_line(member, value):
    found = written()
    found["lock"][member] = value
    with pytest.raises(InvalidInput, match=r"the lock of n\.ipynb is not understood: ") as refused:
        Lock.parse({"cellblock": found}, "n.ipynb")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


def test_a_lock_that_is_no_object_is_refused():
    for lock in (1, "x", [], True):
        with pytest.raises(InvalidInput, match="is not understood"):
            Lock.parse({"cellblock": {"lock": lock}}, "n.ipynb")


def test_packages_are_listed_and_compared_by_kind_and_name():
    old = listed(
        Package(*words.split())
        for words in (
            "python numpy 2.0 /a",
            "python numpy 1.0 /b",
            "python six 1.0 /a",
            "debian six 1.0 /d",
        )
    )
    assert old == {"debian": {"six": "1.0"}, "python": {"numpy": "1.0, 2.0", "six": "1.0"}}
    new = {"python": {"numpy": "2.0", "tqdm": "4"}, "debian": {"six": "1.0"}}
    assert [str(each) for each in differences(old, new)] == [
        "changed: python numpy 1.0, 2.0 -> 2.0",
        "removed: python six 1.0",
        "added: python tqdm 4",
    ]
    assert differences(old, old) == ()
