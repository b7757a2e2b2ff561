"""What the actions of verbs ask of the engine, and what they return."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from cellblock.verbs import VERBS
from cellblock.verbs.containers import last_lines
from cellblock.verbs.declaration import Call
from cellblock.verbs.outcome import Acknowledged, Foreground, Identifiers, Started
from cellblock.verbs.run import execute_script, run_request
from cellblock_engine import (
    Conflict,
    ContainerNotFound,
    ImageNotFound,
    InvalidInput,
    LogRecord,
    NotFound,
)
from support.fake_engine import container


def call(fake, line: str, form="line", environ=None) -> Call:
    name, *words = line.split()
    arguments = VERBS[name].parse(words, prog=name, form=form)
    return Call(fake, arguments, lambda: nullcontext(lambda event: None), environ or {})


def do(fake, line: str, **environ: str):
    return VERBS[line.split(maxsplit=1)[0]].action(call(fake, line, environ=environ))


def test_run_makes_a_request_of_all_its_flags(fake):
    outcome = do(
        fake,
        "run --rm -i --name box -e A=1 -e HAVE -e LACK -w /srv -u 1:2 -h node --entrypoint /e"
        " --network host -m 64m --cpus 0.5 --pids-limit 9 --timeout 2m host cat -n",
        HAVE="yes",
    )
    assert isinstance(outcome, Foreground)
    assert outcome.stdin == "caller"
    assert fake.requests == []  # nothing starts before the surface follows it
    with outcome.start():
        pass
    (request,) = fake.requests
    assert (request.image, request.argv, request.entrypoint) == ("host", ("cat", "-n"), "/e")
    assert request.env == {"A": "1", "HAVE": "yes"}
    assert (request.workdir, request.user, request.hostname) == ("/srv", "1:2", "node")
    assert (request.network, request.timeout_s, request.name) == ("host", 120.0, "box")
    assert (request.remove, request.interactive) == (True, True)
    limits = request.limits
    assert (limits.memory_bytes, limits.cpus, limits.pids) == (64 << 20, 0.5, 9)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("-m 64x", "memory limit '64x' is not a size"),
        ("-m 1k", "too small"),
        ("--cpus 0", "cpus limit"),
        ("--pids-limit 0", "pids limit"),
        ("--timeout never", "timeout 'never' is not a duration"),
        ("--network lan", "network 'lan' is not known"),
        ("--name a/b", "container name 'a/b' is not valid"),
        ("-e =1", "environment variable '=1' has no name"),
        ("-w srv", "working directory 'srv'"),
        ("-d -i", "-d and -i exclude each other"),
    ],
)
def test_run_refuses_what_cannot_be_meant(fake, flags, message):
    with pytest.raises(InvalidInput, match=message):
        do(fake, f"run {flags} host true")
    assert fake.requests == []


def test_run_detached_returns_the_id(fake):
    outcome = do(fake, "run -d --name box host sleep 9")
    assert outcome == Started(container("box", "running").id)


def test_run_pulls_an_image_that_is_not_here(fake):
    do(fake, "run debian:12 true")
    assert fake.image("debian:12")
    with pytest.raises(ImageNotFound):
        do(fake, "run missing:12 true")


def test_a_cells_container_goes_unless_it_has_a_name(fake):
    assert run_request(call(fake, "run", "cell")).remove
    assert run_request(call(fake, "run", "cell")).image == "host"
    assert not run_request(call(fake, "run --name box", "cell")).remove
    assert run_request(call(fake, "run --name box --rm", "cell")).remove


def test_exec_needs_a_command_and_a_container(fake):
    with pytest.raises(InvalidInput, match="nothing to execute"):
        do(fake, "exec up")
    with pytest.raises(ContainerNotFound):
        do(fake, "exec nope true")
    assert do(fake, "exec -i up cat").stdin == "caller"


def test_exec_refuses_a_script_that_no_shell_takes(fake):
    given = call(fake, "exec up", "cell")
    assert execute_script(given, "x" * 131071)
    with pytest.raises(InvalidInput, match="longer than 128 KiB"):
        execute_script(given, "x" * 131072)


def test_ps_lists_running_ones_or_all(fake):
    assert [row.name for row in do(fake, "ps").table.rows] == ["up"]
    assert [row.name for row in do(fake, "ps -a").table.rows] == ["up", "gone"]
    assert do(fake, "ps -aq") == Identifiers(tuple(box.id[:12] for box in fake.boxes))
    assert do(fake, "ps -aq --no-trunc") == Identifiers(tuple(box.id for box in fake.boxes))


def test_images_have_a_row_for_each_name(fake):
    (row,) = do(fake, "images").table.rows
    assert (row.repository, row.tag, row.size_bytes) == ("python", "3.12-slim", 123_456_789)
    assert do(fake, "images -q") == Identifiers((row.image_id.removeprefix("sha256:")[:12],))


def test_lists_go_on_after_a_failure_and_report_it(fake):
    outcome = do(fake, "rm up nope gone")
    assert isinstance(outcome, Acknowledged)
    assert outcome.lines == ("gone",)
    assert [type(error) for error in outcome.errors] == [Conflict, ContainerNotFound]
    assert fake.done == [("rm", "gone")]


def test_a_single_failure_is_raised(fake):
    with pytest.raises(Conflict):
        do(fake, "rm up")


def test_signals_and_graces_are_passed_on(fake):
    do(fake, "kill up")
    do(fake, "kill -s TERM up")
    do(fake, "stop up")
    do(fake, "stop -t 3 up")
    words = ["SIGKILL", "SIGTERM", "stop 10", "stop 3"]
    assert fake.done == [(word, "up") for word in words]


def test_wait_returns_exit_statuses(fake):
    assert do(fake, "wait gone").lines == ("137",)


def test_rmi_says_what_went(fake):
    (image,) = fake.images()
    outcome = do(fake, "rmi python:3.12-slim")
    assert outcome.lines == ("Untagged: python:3.12-slim", f"Deleted: {image.id}")


def test_inspect_knows_containers_and_images(fake):
    documents = do(fake, "inspect gone python:3.12-slim").documents
    assert documents["gone"]["exit_code"] == 137
    assert documents["gone"]["limits"]["memory"] == 64 << 20
    assert documents["python:3.12-slim"]["size_bytes"] == 123_456_789
    with pytest.raises(NotFound, match="neither a container nor an image"):
        do(fake, "inspect zip")


@pytest.mark.parametrize(
    ("count", "kept"),
    [
        (0, []),
        (1, [b"5"]),
        (2, [b"4\n", b"5"]),
        (3, [b"3a", b"3b\n", b"4\n", b"5"]),
        (4, [b"2\n", b"3a", b"3b\n", b"4\n", b"5"]),
        (9, [b"1\n", b"2\n", b"3a", b"3b\n", b"4\n", b"5"]),
    ],
)
def test_last_lines_counts_lines_not_records(fake, count, kept):
    now = fake.containers()[0].created_at
    chunks = [b"1\n2\n", b"3a", b"3b\n4\n5"]
    records = [LogRecord(now, "stdout", data) for data in chunks]
    assert [record.data for record in last_lines(records, count)] == kept
