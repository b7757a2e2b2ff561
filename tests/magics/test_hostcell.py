"""Cells about a notebook's own container: what they say to the gate, as lines of JSON."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

import cellblock_kernel
from cellblock.hostcell import Page, carry_out
from cellblock.verbs.own import OWN_VERBS
from cellblock_engine import Bind, ExecutedCell, InvalidInput, Limits, LogRecord, Provenance
from cellblock_kernel import Successor
from support.fake_engine import NOW, Container, FakeEngine, container

NOTHING = Provenance()


@pytest.fixture
def fake():
    return FakeEngine()


def said(fake, text, *, own="up", told=NOTHING, answers=None):
    """Return the lines that a cell says, and its status."""
    output = io.BytesIO()
    identifier = fake.container(own).id
    cell = text if isinstance(text, bytes) else text.encode()
    status = carry_out(cell, identifier, Page(output), lambda: fake, told, answers=answers)
    return [json.loads(line) for line in output.getvalue().splitlines()], status


def shown(fake, text):
    """Return the text that a cell shows, which ends well."""
    lines, status = said(fake, text)
    assert status == 0, lines
    assert {kind for kind, _ in lines} == {"stream"}
    return "".join(content["text"] for _, content in lines)


def refusal(fake, text):
    """Return the one line with which a cell ends, without having done anything."""
    (line,), status = said(fake, text)
    assert (line[0], status) == ("error", 1)
    assert (fake.done, fake.readings) == ([], 0)
    assert "\n" not in line[1]["evalue"]
    return f"{line[1]['ename']}: {line[1]['evalue']}"


def test_info(fake):
    folder = Bind("/tmp", "/tmp", writable=False)
    fake.boxes[0] = replace(
        fake.boxes[0], binds=(folder,), workdir="/tmp", limits=Limits(memory="1g")
    )
    text = shown(fake, "%container info")
    for line in (
        "name:        up",
        "image:       python:3.12-slim",
        "network:     none",
        "workspace:   /tmp (ro)",
        "memory:      1 GiB",
        "cpus:        no limit of its own",
        "pids:        4096",
    ):
        assert line in text.splitlines()


def test_stats_are_a_table_for_people_of_both_kinds(fake):
    ((kind, content),), status = said(fake, "%container stats")
    assert (kind, status) == ("display_data", 0)
    plain, html = content["data"]["text/plain"], content["data"]["text/html"]
    assert plain.splitlines()[0].split()[:3] == ["CONTAINER", "ID", "NAME"]
    assert plain.splitlines()[1].split()[1] == "up"
    assert "<th>memory_limit_bytes</th>" in html
    ((_, content),), _ = said(fake, "%container stats --json")
    (row,) = json.loads(content["data"]["text/plain"])
    assert row["name"] == "up"


def table(fake, text):
    """Return the plain text of the one table that a cell shows."""
    ((kind, content),), status = said(fake, text)
    assert (kind, status) == ("display_data", 0)
    assert "text/html" in content["data"]
    return content["data"]["text/plain"]


def test_what_it_changed_is_a_table(fake):
    assert [line.split()[0] for line in table(fake, "%container diff").splitlines()] == [
        "CHANGE",
        *"CAD",
    ]


def test_what_is_read_is_its_last_commit_else_its_image_or_the_one_named(fake, monkeypatch):
    asked = []
    for verb, reading in (("history", fake.history), ("provenance", fake.provenance)):
        monkeypatch.setattr(
            fake, verb, lambda name, read=reading: asked.append(name) or read("python:3.12-slim")
        )
    box = fake.boxes[0]
    for changes in ({"image_id": "made"}, {"image_id": "made", "committed": "last"}):
        fake.boxes[0] = replace(box, **changes)
        assert "2-4" in table(fake, "%container history")
        assert "a.ipynb" in table(fake, "%container provenance")
    table(fake, "%container history other")
    assert asked == ["made", "made", "last", "last", "other"]
    fake.boxes[0] = replace(box, image_id=None)
    assert "no image: name one" in refusal(fake, "%container history")


def test_limits_are_shown_and_changed(fake):
    assert shown(fake, "%container limits") == (
        "memory:   no limit of its own\ncpus:     no limit of its own\npids:     4096\n"
    )
    assert fake.done == []
    shown(fake, "%container limits --memory 512m --cpus 1.5 --pids-limit 99")
    assert fake.done == [(f"update {Limits(memory='512m', cpus=1.5, pids=99)}", "up")]


def test_logs_are_cleaned(fake, monkeypatch):
    hostile = b"\x1b]0;title\x07\x1b[31mred\x1b[0m \xff\x9b2J\n"
    monkeypatch.setattr(Container, "logs", lambda self: (LogRecord(NOW, "stderr", hostile),) * 2)
    lines, status = said(fake, "%container logs")
    assert status == 0
    assert lines == [
        ["stream", {"name": "stderr", "text": "\x1b[31mred\x1b[0m \ufffd\ufffd2J\n" * 2}]
    ]
    assert shown(fake, "%container logs -n 1").count("red") == 1


def test_streams_keep_their_order(fake):
    lines, _ = said(fake, "%container logs\n%container limits")
    names = [(content["name"], content["text"][:5]) for _, content in lines]
    assert names == [("stdout", "one\nt"), ("stderr", "three"), ("stdout", "memor")]


@pytest.mark.parametrize(
    "text", ["%container", "%container --help", "%%container help", "%container\n"]
)
def test_help_names_the_verbs(fake, text):
    help_ = shown(fake, text)
    assert all(f"  {name} " in help_ for name in OWN_VERBS)


def test_help_of_a_verb(fake):
    assert "--memory" in shown(fake, "%container limits --help")


def test_lines_comments_and_blank_lines(fake):
    text = shown(fake, "\n# first\n%container limits\n\n   %%container limits\n#")
    assert text.count("memory:") == 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("%container limits -m 1g\nx = 1", "line 2 is not carried out: 'x = 1'"),
        ("%container limits -m 1g\n%containers", "line 2 is not carried out"),
        ("%container limits -m 1g\n%container lmits", "did you mean limits?"),
        ("%container limits -m 1g\n%container limits -x", "unknown flag -x"),
        ("%container limits -m 1g\n%container limits 'x", "cannot be split"),
        ("%container limits -m lots", "'lots' is not a size"),
        ("%container run host true", "%container run is not for a notebook whose kernel is in"),
        ("%%container exec up", "info, stats, limits, packages, diff, history, provenance, logs"),
        (
            "%container limits -m 1g\n%container limits gone -m 1g",
            "'gone' is not this notebook's container, which is up",
        ),
        ("%container stats gone", "'gone' is not this notebook's container"),
        ("%container logs ''", "'' is not this notebook's container"),
        ("%container stats up gone", "unexpected argument 'gone'"),
        ("%container limits\n" * 101, "at most 100 lines"),
        ("%container limits " + "x" * 70_000, "longer than 64 KiB"),
    ],
)
def test_what_is_refused_is_one_line_and_nothing_is_done(fake, text, line):
    assert line in refusal(fake, text)


def test_its_own_name_and_the_beginning_of_its_id_are_taken(fake):
    identifier = fake.container("up").id
    shown(fake, f"%container limits up\n%container limits {identifier[:12]}")


def test_what_hostile_text_a_cell_has_stays_text(fake):
    line = refusal(fake, b"%container limits\n\xff\x1b]0;x\x07<script>")
    assert "\x1b" not in line


def test_a_name_of_markup_is_escaped(fake):
    name = "<img src=x onerror=alert(1)>"
    fake.boxes.append(container(name, "running", started_at=NOW))
    ((_, content),), _ = said(fake, "%container stats", own=name)
    assert "<img" not in content["data"]["text/html"]


def test_commits_tell_what_was_executed_once(fake):
    told = Provenance("a.ipynb", (ExecutedCell(3, "x = 1"),), older_cells=2)
    text = "%container commit one\n%container commit two"
    lines, status = said(fake, text, own="gone", told=told)
    assert status == 0
    assert [kind for kind, _ in lines].count("committed") == 2
    assert [request.provenance for request in fake.commits] == [told, Provenance("a.ipynb")]
    text = "".join(content["text"] for kind, content in lines if kind == "stream")
    assert [line for line in text.splitlines() if line.startswith("cells")] == [
        "cells:         2 older, 3"
    ]
    lines, status = said(fake, "%container commit one", own="up", told=told)  # which is refused
    assert status == 1
    assert [kind for kind, _ in lines] == ["error"]


class TestRestoration:
    @pytest.fixture(autouse=True)
    def _kernels(self, monkeypatch):
        def find(_engine, _present, name):
            if name == "bare":
                raise InvalidInput("image bare has no kernel")
            return name

        def made(_engine, kernel, _name):
            return Successor(f"id of {kernel}", ("python3", "{connection_file}"))

        monkeypatch.setattr(cellblock_kernel, "find_successor", find)
        monkeypatch.setattr(cellblock_kernel, "made_successor", made)

    def successor(self, lines):
        (found,) = [content for kind, content in lines if kind == "successor"]
        return found

    def test_checkout_says_what_is_lost_and_names_the_successor(self, fake):
        lines, status = said(fake, "%container checkout --yes mine/box")
        assert status == 0
        argv = ["python3", "{connection_file}"]
        assert self.successor(lines) == {"image": "id of mine/box", "argv": argv}
        (text,) = [content["text"] for kind, content in lines if kind == "stream"]
        assert text.startswith("A new kernel begins in a container of mine/box: variables are lost")

    def test_undo_is_to_the_last_commit_else_to_the_image(self, fake):
        box = fake.boxes[0]
        for changed, back in (
            ({"image_id": None}, "host"),
            ({"image_id": "sha256:made"}, "sha256:made"),
            ({"image_id": "sha256:made", "committed": "sha256:last"}, "sha256:last"),
        ):
            fake.boxes[0] = replace(box, **changed)
            lines, _ = said(fake, "%container undo -y")
            assert self.successor(lines)["image"] == f"id of {back}"

    @pytest.mark.parametrize(
        ("answer", "goes_on"),
        [('"y"', True), ('" YES "', True), ('"n"', False), ('""', False), ('"yesterday"', False)],
    )
    def test_it_asks(self, fake, answer, goes_on):
        lines, status = said(fake, "%container undo", answers=io.StringIO(answer + "\n"))
        kind, content = lines[0]
        assert kind == "ask"
        assert "variables are lost" in content["prompt"]
        assert (status == 0) == goes_on
        assert any(kind == "successor" for kind, _ in lines) == goes_on

    @pytest.mark.parametrize("answers", [None, io.StringIO("null\n"), io.StringIO()])
    def test_where_nobody_can_be_asked_it_is_refused(self, fake, answers):
        lines, status = said(fake, "%container undo", answers=answers)
        kind, content = lines[-1]
        assert (kind, status) == ("error", 1)
        assert "add --yes (-y): variables are lost" in content["evalue"]

    def test_nobody_is_asked_where_it_cannot_be_done(self, fake):
        answers = io.StringIO('"y"\n')
        (line,), status = said(fake, "%container checkout bare", answers=answers)
        assert (line[1]["evalue"], status) == ("image bare has no kernel", 1)

    def test_it_is_the_last_line_of_its_cell(self, fake):
        for verb in ("checkout -y mine/box", "undo -y"):
            text = refusal(fake, f"%container {verb}\n%container info")
            assert f"line 2 comes after {verb.split()[0]}" in text


def started(within_s):
    """Start the process as a gate does, and never tell it the end of the cell."""
    words = [sys.executable, "-m", "cellblock.hostcell", "--container=x", f"--within={within_s}"]
    words += ["--provenance=0", "--answers=0"]  # never read
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)


def test_it_ends_when_its_time_is_up():
    with started(1) as process:
        assert process.wait(20) == -signal.SIGALRM


def test_it_ends_at_an_interrupt():
    with started(60) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0


DEAF = """
import signal, time
from cellblock import hostcell
signal.signal(signal.SIGINT, hostcell._interrupted)
while True:
    try:
        print(flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


def test_what_does_not_end_at_an_interrupt_is_ended():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-c", DEAF]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGALRM
