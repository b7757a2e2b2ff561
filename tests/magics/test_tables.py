"""Tables as text."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from cellblock.tables import Column, Table, View, duration, facts, plain, size, text
from cellblock.verbs import VERBS
from cellblock.verbs.containers import row, status
from cellblock.verbs.group import Group
from support.fake_engine import container

NOW = datetime(2025, 1, 31, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    word: str
    number: int


TABLE = Table(
    Row,
    (Column("WORD", lambda row, _: row.word), Column("N", lambda row, _: str(row.number))),
    (Row("a", 1), Row("longer", 23)),
)


def test_columns_are_aligned_without_trailing_blanks():
    assert text(TABLE, View(NOW)) == "WORD     N\na        1\nlonger   23"


def test_an_empty_table_has_its_titles():
    assert text(Table(Row, TABLE.columns, ()), View(NOW)) == "WORD   N"


def test_hostile_words_cannot_steer_the_terminal():
    hostile = "\x1b]0;title\x07\x9b31m\n\u202eoops"
    shown = text(Table(Row, TABLE.columns, (Row(hostile, 1),)), View(NOW))
    assert not set("\x1b\x07\x9b\u202e") & set(shown)
    assert len(shown.splitlines()) == 2
    assert plain("grün ✓") == "grün ✓"


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (123_456_789, "123MB"),
        (999_600, "1MB"),
        (1_234_567_890, "1.23GB"),
        (5 * 10**15, "5000TB"),
    ],
)
def test_sizes_have_three_digits(count, words):
    assert size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "Less than a second"),
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (150, "2 minutes"),
        (3600, "About an hour"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (20 * 86400, "2 weeks"),
        (61 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_are_rough(seconds, words):
    assert duration(seconds) == words


def test_identifiers_and_commands_are_cut_unless_wide():
    short, wide = View(NOW), View(NOW, wide=True)
    assert short.identifier("sha256:" + "ab" * 32) == "ab" * 6
    assert wide.identifier("sha256:" + "ab" * 32) == "sha256:" + "ab" * 32
    assert short.command("x" * 21) == '"' + "x" * 19 + '…"'
    assert short.command("x" * 20) == wide.command("x" * 20) == '"' + "x" * 20 + '"'


def test_status_says_what_ended_a_container():
    view = View(NOW)
    up = container("a", "running", started_at=NOW - timedelta(minutes=3))
    assert status(row(up), view) == "Up 3 minutes"
    ended = {"finished_at": NOW - timedelta(hours=3), "exit_code": 137}
    assert status(row(container("a", "exited", **ended)), view) == "Exited (137) 3 hours ago"
    oom = container("a", "exited", **ended, verdict="out of memory: the limit of 64 MiB ...")
    assert status(row(oom), view) == "Exited (137) 3 hours ago (out of memory)"
    assert status(row(container("a", "created")), view) == "Created"


def test_facts_are_dotted_and_leave_out_what_is_not_known():
    shown = facts({"a": {"b": 1}, "list": ["x", "y"], "unknown": None, "no": {}})
    assert shown == "a.b:    1\nlist:   x, y\nno:     none"


def test_all_summaries_are_short():
    seconds = [
        verb
        for entry in VERBS.values()
        if isinstance(entry, Group)
        for verb in entry.verbs.values()
    ]
    assert all(len(entry.summary) < 60 for entry in (*VERBS.values(), *seconds))
