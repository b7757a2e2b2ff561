"""Instructions are read as Docker reads them, and change a config as a build would."""

from __future__ import annotations

import json
import time

import hypothesis
import pytest
from hypothesis import strategies as some

from cellblock_engine.errors import InvalidInput
from cellblock_engine.oci.instructions import (
    Cmd,
    Entrypoint,
    Env,
    Expose,
    Label,
    Volume,
    configured,
    parse_changes,
    parse_instruction,
)
from cellblock_engine.oci.shellwords import Expansion, split_words

IMAGE = {"Env": ["PATH=/bin", "HOME=/root", "EMPTY="], "Cmd": ["sh"], "Healthcheck": {"Test": []}}


def changed(*texts: str, config: dict[str, object] | None = None) -> dict[str, object]:
    return configured(IMAGE if config is None else config, parse_changes(texts))


def env(*texts: str) -> dict[str, str]:
    entries = changed(*texts)["Env"]
    assert isinstance(entries, list)
    return dict(entry.split("=", 1) for entry in entries)


@pytest.mark.parametrize(
    ("text", "instruction"),
    [
        ('CMD ["a", "b c"]', Cmd(("a", "b c"))),
        ("cmd a  b 'c", Cmd("a  b 'c")),
        ("CMD [a, b]", Cmd("[a, b]")),  # no JSON: a line, as in Docker
        ("CMD []", Cmd(())),
        ('  ENTRYPOINT\t["x"]  ', Entrypoint(("x",))),
        ('ENV a=b c="d e"', Env((("a", "b"), ("c", '"d e"')))),
        ("ENV a=g\\ h i=''", Env((("a", "g\\ h"), ("i", "''")))),
        ("ENV a b  c=d", Env((("a", "b  c=d"),))),
        ("LABEL org.x=1", Label((("org.x", "1"),))),
        ("EXPOSE 80 53/udp", Expose(("80", "53/udp"))),
        ('VOLUME ["/a b"]', Volume(("/a b",))),
        ("VOLUME /a /b", Volume(("/a", "/b"))),
    ],
)  # fmt: skip
def test_what_is_read(text: str, instruction: object):
    assert parse_instruction(text) == instruction


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is none of CMD, ENTRYPOINT, ENV"),
        ("RUN true", "'RUN' is none of"),
        ("CMDsh", "'CMDsh' is none of"),
        ("FROM scratch", "is none of"),
        ("# CMD a", "is none of"),
        ("CMD", "nothing is said after CMD"),
        ("CMD --flag", "takes no flags"),
        ("CMD a\nENV b=c", "several lines"),
        ('CMD ["a", 1]', "other things than strings"),
        ('CMD ["\\u0000"]', "no program can be given"),
        ('CMD ["\\ud800"]', "no program can be given"),
        ("ENV a", "'a' has no value"),
        ("ENV a=b c", "'c' is not NAME=VALUE"),
        ("USER a b", "one word, not 2"),
        ("ONBUILD FROM x", "cannot be triggered"),
        ("CMD \udcff", "not UTF-8"),
        ("CMD " + "x" * 70_000, "longer than 64 KiB"),
    ],
)
def test_what_is_refused_when_read(text: str, why: str):
    with pytest.raises(InvalidInput, match=why) as refused:
        parse_changes([text])
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ENV =b", "has a name that is none"),
        ("ENV $NONE=b", "has a name that is none"),
        ("ENV a=${HOME", "has no '}'"),
        ("ENV a=${HOME%/}", "an operator other than"),
        ("ENV a=${}", "not followed by a name"),
        ("ENV a='b", "quote ' is not closed"),
        ('ENV a="b', 'quote " is not closed'),
        ('ENV a="${NONE:?tell me}"', "NONE is not set in the image: tell me"),
        ("EXPOSE http", "is no port"),
        ("EXPOSE 80:80", "is no port"),
        ("EXPOSE 9-8", "no range"),
        ("EXPOSE 65536", "no range"),
        ("USER $NONE", "USER is empty"),
        ("WORKDIR $NONE", "WORKDIR is empty"),
        ('VOLUME [""]', "VOLUME is empty"),
        ("STOPSIGNAL SIGNOTHING", "is not a signal"),
        ("ENV a=" + "${a:-" * 60 + "}" * 60, "more than 50 deep"),
    ],
)
def test_what_is_refused_of_an_image(text: str, why: str):
    with pytest.raises(InvalidInput, match=why) as refused:
        changed(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("$HOME/bin:$PATH", "/root/bin:/bin"),
        ("${HOME}x", "/rootx"),
        ("$HOMEx", ""),
        ("'$HOME'", "$HOME"),
        ('"$HOME \\$HOME \\n"', "/root $HOME \\n"),
        ("\\$HOME", "$HOME"),
        ("a$", "a$"),
        ("$-x$1a", "xa"),
        ("${NONE:-${HOME}}${EMPTY:-e}${EMPTY-e}", "/roote"),
        ("${HOME:+h}${NONE:+n}${EMPTY+e}", "he"),
    ],
)
def test_variables(written: str, value: str):
    assert env(f"ENV a={written}")["a"] == value


def test_variables_have_the_value_from_before():
    found = env("ENV HOME=/new b=$HOME", "ENV c=$HOME d=$b")
    assert (found["b"], found["c"], found["d"]) == ("/root", "/new", "/root")
    assert list(found)[:3] == ["PATH", "HOME", "EMPTY"]  # changed where it stood


def test_every_instruction():
    config = changed(
        'CMD ["a"]',
        "ENTRYPOINT b c",
        "ENV D=e",
        'LABEL f="g h" $D=$HOME',
        "EXPOSE 80 53/UDP 8000-8001 $NONE",
        "VOLUME $HOME/v",
        "WORKDIR x",
        "WORKDIR ../$D/",
        "USER $D:1",
        "STOPSIGNAL INT",
        "ONBUILD RUN $D",
    )
    assert config == {
        **IMAGE,
        "Env": [*IMAGE["Env"], "D=e"],
        "Cmd": ["a"],
        "Entrypoint": ["/bin/sh", "-c", "b c"],
        "Labels": {"f": "g h", "e": "/root"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}},
        "Volumes": {"/root/v": {}},
        "WorkingDir": "/e",
        "User": "e:1",
        "StopSignal": "INT",
        "OnBuild": ["RUN $D"],
    }
    assert "Labels" not in IMAGE


def test_an_entrypoint_drops_the_command_of_the_image():
    assert "Cmd" not in changed('ENTRYPOINT ["a"]')
    assert changed('ENTRYPOINT ["a"]', 'CMD ["b"]')["Cmd"] == ["b"]


def test_the_shell_is_the_images():
    config = {"Shell": ["/bin/bash", "-ec"]}
    assert changed("CMD a b", config=config)["Cmd"] == ["/bin/bash", "-ec", "a b"]


def test_variables_do_not_grow_without_end():
    begun = time.monotonic()
    doubling = ["ENV a=aaaaaaaa", *["ENV a=$a$a"] * 30]
    with pytest.raises(InvalidInput, match="longer than a program can be given"):
        changed(*doubling)
    many = "ENV a=" + "x" * 60_000, "LABEL " + " ".join(f"l{n}=$a" for n in range(5000))
    with pytest.raises(InvalidInput, match="longer than an image's config may be"):
        changed(*many)
    assert time.monotonic() - begun < 5


@hypothesis.given(some.text(max_size=60))
def test_any_text_is_read_or_refused(text: str):
    for name in ("CMD", "ENV", "LABEL a", "EXPOSE", "VOLUME", "WORKDIR", "USER", "STOPSIGNAL"):
        try:
            config = changed(f"{name} {text}")
        except InvalidInput:
            continue
        assert json.loads(json.dumps(config)) == config


@hypothesis.given(some.lists(some.text(some.characters(exclude_categories=("Cs",)), max_size=20)))
def test_what_is_quoted_is_taken_as_it_is(values: list[str]):
    """Whatever the value, quoting it gives it back."""
    values = [value.replace("\r", "").replace("\n", "").replace("\0", "") for value in values]
    quoted = [
        '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'
        for value in values
    ]
    assert split_words(" ".join(quoted)) == quoted
    assert [Expansion({}).word(word) for word in quoted] == values
