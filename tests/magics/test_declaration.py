"""Parsing, as the verbs declare it."""

from __future__ import annotations

import pytest

from cellblock.verbs import VERBS
from cellblock.verbs.declaration import HelpRequested
from cellblock.verbs.group import Group, find
from cellblock_engine import InvalidInput


def parse(line: str, form="line"):
    found = find(line.split(), VERBS, prog="cellblock", overview=str)
    return found.verb.parse(found.rest, prog=found.prog, form=form)


def every_use() -> list[str]:
    return [
        use
        for name, entry in VERBS.items()
        for use in (
            [f"{name} {second}" for second in entry.verbs] if isinstance(entry, Group) else [name]
        )
    ]


def test_every_verb_of_the_first_issue_is_there():
    wanted = "pull images rmi run ps logs exec stop kill rm wait inspect info version"
    assert set(wanted.split()) <= set(VERBS)


@pytest.mark.parametrize("use", every_use())
def test_every_verb_has_help_without_operands(use):
    found = find(use.split(), VERBS, prog="%container", overview=str)
    verb = found.verb
    with pytest.raises(HelpRequested) as caught:
        verb.parse(["--help"], prog=found.prog)
    text = str(caught.value)
    assert text.startswith(f"usage: %container {use} [OPTIONS]")
    for argument in verb.of_form("line"):
        assert argument.summary.split()[0] in text


def test_all_after_the_image_is_the_command():
    given = parse("run --rm -m 64m IMAGE python3 -c print(1) --rm -m 3 --help -- --no-such-flag")
    assert (given.image, given.rm, given.memory) == ("IMAGE", True, "64m")
    words = "python3 -c print(1) --rm -m 3 --help -- --no-such-flag"
    assert given.command == words.split()


def test_an_image_may_have_no_command():
    assert parse("run IMAGE").command == []


def test_short_flags_combine_and_values_may_be_attached():
    given = parse("run -im64m -e A=1 --env=B=2=3 IMAGE")
    assert (given.interactive, given.memory, given.env) == (True, "64m", ["A=1", "B=2=3"])


def test_repeated_calls_do_not_share_lists():
    assert parse("run -e A=1 IMAGE").env == ["A=1"]
    assert parse("run IMAGE").env == []


@pytest.mark.parametrize(
    ("words", "image"),
    [
        ("run", None),
        ("run IMAGE", "IMAGE"),
        ("run --memory 64m", None),
        ("run --memory 64m IMAGE", "IMAGE"),
        ("run IMAGE --memory 64m", "IMAGE"),
        ("run --rm IMAGE --memory 64m --network none", "IMAGE"),
    ],
)
def test_in_a_cell_the_image_is_optional_and_flags_may_follow_it(words, image):
    given = parse(words, form="cell")
    assert given.image == image
    assert given.memory == ("64m" if "64m" in words else None)


@pytest.mark.parametrize(
    ("line", "form", "message"),
    [
        ("run --memroy 64m IMAGE", "line", "unknown flag --memroy; did you mean --memory?"),
        ("run --memor=64m IMAGE", "line", "unknown flag --memor; did you mean --memory?"),
        ("run", "line", "required: IMAGE"),
        ("run -m", "line", "-m/--memory: expected one argument"),
        ("run --cpus many IMAGE", "line", "--cpus: 'many' is not a number"),
        ("run --pids-limit 1.5 IMAGE", "line", "--pids-limit: '1.5' is not a whole number"),
        ("run -t IMAGE", "line", "unknown flag -t"),
        ("run IMAGE command", "cell", "unexpected argument 'command'"),
        ("run -d", "cell", "unknown flag -d"),
        ("ps up", "line", "unexpected argument 'up'"),
        ("rm", "line", "required: CONTAINER"),
        ("logs -n some box", "line", "'some' is not a number of lines"),
        ("stop -t soon box", "line", "'soon' is not a grace period"),
    ],
)
def test_bad_words_are_one_line(line, form, message):
    with pytest.raises(InvalidInput) as caught:
        parse(line, form)
    text = str(caught.value)
    assert message in text
    assert text.endswith(f"see cellblock {line.split()[0]} --help")
    assert "\n" not in text
    assert "COMMAND" not in text


def test_flags_are_not_abbreviated():
    with pytest.raises(InvalidInput, match="unknown flag --mem"):
        parse("run --mem 64m IMAGE")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run -it IMAGE", "argument -i/--interactive takes no value, it was given 't'"),
        ("run --rm=no IMAGE", "argument --rm takes no value, it was given 'no'"),
        ("run --net none IMAGE", "unknown flag --net; did you mean --network?"),
    ],
)
def test_common_slips_are_named(line: str, message: str):
    with pytest.raises(InvalidInput) as caught:
        parse(line)
    assert str(caught.value) == f"{message}; see cellblock run --help"
