"""Patterns of paths mean what they mean in a .dockerignore, whatever the names are."""

from __future__ import annotations

import re
import time

import hypothesis
import pytest
from hypothesis import strategies as some

from cellblock_engine.errors import InvalidInput
from cellblock_engine.patterns import Patterns


def matched(pattern: str, *paths: str) -> list[str]:
    patterns = Patterns([pattern])
    return [path for path in paths if patterns.match(path.encode())]


@pytest.mark.parametrize(
    ("pattern", "paths", "not_paths"),
    [
        ("a", ["a", "a/b"], ["ab", "b/a"]),
        ("/a/./b//c/", ["a/b/c"], ["a/b"]),
        ("a/*", ["a/b", "a/b/c"], ["a"]),
        ("*.py", ["x.py", ".py", "x.py/y"], ["x.pyc", "a/x.py", "xpy"]),
        ("a?c", ["abc", "aéc"], ["ac", "a/c"]),
        ("**/x", ["x", "a/x", "a/b/x/c"], ["xx", "a/xx"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "b"]),
        ("a/**/b", ["a/b", "a/c/d/b", "a/b/c"], ["ab", "a/bb"]),
        ("**", ["a", "a/b"], []),
        ("**/a/**/a", ["a/a", "x/a/y/a/z"], ["a", "x/a/y"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "x"]),
        ("[^a-c]x", ["dx"], ["ax", "/x"]),
        ("[]a]x", ["]x", "ax"], ["x"]),
        (r"\*[\]]\[", ["*]["], ["a]["]),
        ("a*b*c", ["abc", "axbxbc"], ["acb", "ab/c"]),
        ("a***c", ["ac", "abc"], ["a/c"]),
        ("a.b+(c)", ["a.b+(c)"], ["axb+(c)"]),
        ("a\nb", ["a\nb"], ["a", "a\n"]),
    ],
)
def test_what_is_matched(pattern: str, paths: list[str], not_paths: list[str]):
    assert matched(pattern, *paths, *not_paths) == paths


def test_the_last_that_matches_decides():
    patterns = Patterns(["a", "!a/*.py", "a/secret*", "!**/keep"])
    paths = ("a", "a/b", "a/x.py", "a/secret.py", "a/b/keep/c")
    found = [path for path in paths if patterns.match(path.encode())]
    assert found == ["a", "a/b", "a/secret.py"]
    assert patterns.has_exceptions
    assert not Patterns(["a"]).has_exceptions


def test_names_that_are_no_text():
    assert Patterns(["a?b"]).match(b"a\xffb")
    assert Patterns(["a\udcff"]).match(b"a\xff/x")
    assert not Patterns(["a"]).match(b"\xff")


@pytest.mark.parametrize(
    "pattern", ["", "!", "/", ".", "a/../b", "[a", "[", "[^]", "a\\", "[z-a]", "a\0", "x" * 5000]
)
def test_what_is_refused(pattern: str):
    with pytest.raises(InvalidInput) as refused:
        Patterns([pattern])
    assert "\n" not in str(refused.value)


def test_many_patterns_and_hostile_names_take_little_time():
    with pytest.raises(InvalidInput, match="more than the 10000"):
        Patterns(["a"] * 10_001)
    many = Patterns([f"names/n{number}" for number in range(9990)] + ["*a*b*c"] * 10)
    slow = Patterns(["*a" * 60 + "b/**/" + "*a" * 60 + "/**/*b*c"])
    deep, wide = b"/".join([b"a"] * 2000), b"/".join([b"a" * 255] * 15)
    begun = time.monotonic()
    for _ in range(200):
        for path in (deep, wide):
            assert not many.match(path)
            assert not slow.match(path)
    assert time.monotonic() - begun < 5


def naive(parts: list[str], path: list[str]) -> bool:
    """Try everything."""
    if not parts:
        return True
    if parts[0] == "**":
        if len(parts) == 1:
            return bool(path)
        return any(naive(parts[1:], path[skipped:]) for skipped in range(len(path)))
    translated = re.escape(parts[0]).replace("\\*", ".*").replace("\\?", ".")
    return bool(path) and bool(re.fullmatch(translated, path[0])) and naive(parts[1:], path[1:])


names = some.text("ab", min_size=1, max_size=4)


@hypothesis.given(
    some.lists(some.text("ab*?", min_size=1, max_size=5) | some.just("**"), min_size=1, max_size=5),
    some.lists(names, min_size=1, max_size=6),
)
def test_it_agrees_with_trying_everything(parts: list[str], path: list[str]):
    parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in parts]
    assert Patterns(["/".join(parts)]).match("/".join(path).encode()) == naive(parts, path)
