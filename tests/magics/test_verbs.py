"""What the actions of verbs ask of the engine, and what they return."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace
from typing import BinaryIO

import pytest

from cellblock.frames import frame
from cellblock.tables import View, text, utc_now
from cellblock.terminal import render
from cellblock.verbs import VERBS
from cellblock.verbs.containers import last_lines
from cellblock.verbs.declaration import Call
from cellblock.verbs.group import find
from cellblock.verbs.outcome import Acknowledged, Foreground, Identifiers, Listing, Started
from cellblock.verbs.run import exec_request, run_request
from cellblock_engine import (
    Check,
    Conflict,
    ContainerNotFound,
    Diagnosis,
    ExecRequest,
    ImageNotFound,
    ImportRequest,
    InvalidInput,
    Limits,
    LogRecord,
    NotFound,
    Platform,
    Removal,
    RunDefaults,
    Settings,
    Stats,
)
from support.fake_engine import container


class Answers:
    """A user who answers whatever is asked."""

    def visible(self, prompt: str, *, otherwise: str) -> str:
        return f"to {prompt}"

    def secret(self, prompt: str, *, otherwise: str) -> str:
        return f"secret to {prompt}"

    def piped(self) -> str:
        return "from stdin"

    def reader(self) -> BinaryIO:
        raise InvalidInput("no stdin")

    def writer(self) -> BinaryIO:
        raise InvalidInput("no stdout")


def call(fake, line: str, form="line", environ=None) -> Call:
    found = find(line.split(), VERBS, prog="cellblock", overview=str)
    arguments = found.verb.parse(found.rest, prog=found.prog, form=form)
    return Call(fake, arguments, lambda: nullcontext(lambda event: None), environ or {}, Answers())


def do(fake, line: str, **environ: str):
    found = find(line.split(), VERBS, prog="cellblock", overview=str)
    return found.verb.action(call(fake, line, environ=environ))


def test_run_makes_a_request_of_all_its_flags(fake):
    outcome = do(
        fake,
        "run --rm -i --name box -e A=1 -e HAVE -e LACK -w /srv -u 1:2 -h node --entrypoint /e"
        " --network host -m 64m --cpus 0.5 --pids-limit 9 --timeout 2m --cpu-shares 512"
        " --memory-reservation 32m --device-write-bps /dev/a:1m --device-write-bps /dev/b:2m"
        " --device-read-iops /dev/a:9 --blkio-weight 300 --limits enforce host cat -n",
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
    assert (request.removal, request.interactive) == (Removal.AT_END, True)
    limits = request.limits
    assert (limits.memory_bytes, limits.cpus, limits.pids) == (64 << 20, 0.5, 9)
    assert (limits.cpu_shares, limits.memory_reservation_bytes) == (512, 32 << 20)
    assert limits.device_rates == {
        "device_write_bps": {"/dev/a": 1 << 20, "/dev/b": 2 << 20},
        "device_read_iops": {"/dev/a": 9},
    }
    assert (limits.blkio_weight, limits.mode) == (300, "enforce")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("-m 64x", "memory limit '64x' is not a size"),
        ("-m 1k", "too small"),
        ("--cpus 0", "cpus limit"),
        ("--pids-limit 0", "pids limit"),
        ("--limits some", "limits 'some' is not known: use enforce or best-effort"),
        ("--device-read-bps /dev/sda", "--device-read-bps '/dev/sda' is not understood"),
        ("--timeout never", "timeout 'never' is not a duration"),
        ("--network lan", "network 'lan' is not known"),
        ("--name a/b", "container name 'a/b' is not valid"),
        ("-e =1", "environment variable '=1' has no name"),
        ("-w srv", "working directory 'srv'"),
    ],
)
def test_run_refuses_what_cannot_be_meant(fake, flags, message):
    with pytest.raises(InvalidInput, match=message):
        do(fake, f"run {flags} host true")
    assert fake.requests == []


def test_create_makes_and_start_starts(fake):
    assert do(fake, "create --name box host cat -n") == Started(container("box", "created").id)
    assert fake.requests[0].argv == ("cat", "-n")
    assert do(fake, "start box up") == Acknowledged(("box", "up"))
    assert fake.done == [("start", "box")]  # the other runs
    assert isinstance(do(fake, "start -a box"), Foreground)
    with pytest.raises(InvalidInput, match="-a follows one container"):
        do(fake, "start -a box up")


def test_run_explains_and_starts_nothing(fake):
    outcome = do(fake, "run --explain nosuch:latest cat -n")
    assert outcome == Acknowledged(("command:", "  cat", "  -n", "limits:", "  none"))
    assert fake.requests == []
    assert all("nosuch" not in str(image.references) for image in fake.stored)


@pytest.mark.parametrize("words", ["run", "run -d", "create"])
def test_what_stands_in_for_a_limit_is_told(fake, words):
    (note,) = do(fake, f"{words} --limits=best-effort -m 64m host true").notes
    assert note.endswith("as no control group can enforce them here: memory: less")
    assert do(fake, f"{words} --limits=best-effort host true").notes == ()
    assert do(fake, f"{words} -m 64m host true").notes == ()


def test_run_reads_variables_from_files(fake, tmp_path):
    file = tmp_path / "env"
    file.write_text("# said\nA=1 2\n\nB='q'\nHAVE\nLACK\n")
    with do(fake, f"run --env-file {file} -e A=3 -l a=b -l c host true", HAVE="yes").start():
        pass
    assert fake.requests[0].env == {"A": "3", "B": "'q'", "HAVE": "yes"}
    assert fake.requests[0].labels == {"a": "b", "c": ""}
    file.write_text("A =1\n")
    with pytest.raises(InvalidInput, match="is not NAME=VALUE"):
        do(fake, f"run --env-file {file} host true")
    with pytest.raises(InvalidInput, match="cannot read --env-file"):
        do(fake, f"run --env-file {tmp_path / 'none'} host true")


def test_run_detached_returns_the_id(fake):
    outcome = do(fake, "run -d --name box host sleep 9")
    assert outcome == Started(container("box", "running").id)


def test_run_pulls_an_image_that_is_not_here(fake):
    do(fake, "run debian:12 true")
    assert fake.image("debian:12")
    with pytest.raises(ImageNotFound):
        do(fake, "run missing:12 true")


@pytest.mark.parametrize(
    ("flags", "pulls"),
    [
        ("", 0),
        ("--pull missing", 0),
        ("--pull never", 0),
        ("--pull always", 1),
        ("--platform linux/s390x", 1),
        ("--platform linux/s390x --pull always", 1),
        (f"--platform {Platform.host()} --pull never", 0),
    ],
)
def test_run_pulls_as_it_is_told(fake, flags, pulls):
    do(fake, f"run {flags} python:3.12-slim true")
    assert fake.done == [("pull", "python:3.12-slim")] * pulls
    if "s390x" in flags:
        assert fake.image("python:3.12-slim").platform.architecture == "s390x"


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        ("--pull never debian:12", ImageNotFound, "debian:12"),
        ("--pull never --platform linux/s390x python:3.12-slim", ImageNotFound, "in the store for"),
        ("--pull newer debian:12", InvalidInput, "--pull 'newer' is not known"),
        ("--platform a/b/c/d debian:12", InvalidInput, "platform 'a/b/c/d' is not valid"),
        ("--platform linux/s390x host", InvalidInput, "of this machine's platform"),
    ],
)
def test_run_does_not_pull_what_it_must_not(fake, words, kind, message):
    with pytest.raises(kind, match=message):
        do(fake, f"run {words} true")
    assert fake.done == []
    assert fake.requests == []


def test_the_host_image_is_never_pulled(fake):
    do(fake, f"run --pull always --platform {Platform.host()} host true")
    assert fake.done == []


def test_settings_are_the_defaults_of_flags(fake):
    limits = Limits(memory="512m", cpus=2, pids=99, mode="enforce")
    fake.settings = Settings(run=RunDefaults(network="host", limits=limits, timeout_s=60))
    for form in ("line", "cell"):
        request = run_request(call(fake, "run host", form))
        assert (request.network, request.timeout_s) == ("host", 60)
        assert request.limits == limits
    request = run_request(call(fake, "run --network none -m 64m --timeout 1 host"))
    assert (request.network, request.timeout_s) == ("none", 1)
    assert request.limits == Limits(memory="64m", cpus=2, pids=99, mode="enforce")


def test_a_cells_container_goes_unless_it_has_a_name(fake):
    assert run_request(call(fake, "run", "cell")).removal is Removal.AT_END
    assert run_request(call(fake, "run", "cell")).image == "host"
    assert run_request(call(fake, "run --name box", "cell")).removal is Removal.NEVER
    removal = run_request(call(fake, "run --name box --rm", "cell")).removal
    assert removal is Removal.AT_END


def test_exec_needs_a_command_and_a_container(fake):
    with pytest.raises(InvalidInput, match="nothing to execute"):
        do(fake, "exec up")
    with pytest.raises(ContainerNotFound):
        do(fake, "exec nope true")
    assert do(fake, "exec -i up cat").stdin == "caller"


def test_a_cell_of_a_running_container_says_all_but_what_runs_it(fake):
    request = exec_request(call(fake, "exec -e A=1 -w /srv -u 1:2 up", "cell"))
    assert request == ExecRequest((), {"A": "1"}, "/srv", "1:2")


def test_what_is_detached_without_a_command_keeps_its_input(fake):
    for flags, command, interactive in (("-d", "", True), ("-d", "true", False), ("-di", "cat", 1)):
        do(fake, f"run {flags} host {command}")
        assert fake.requests[-1].interactive is bool(interactive)


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


def test_push_says_what_the_registry_now_has(fake):
    outcome = do(fake, "push python:3.12-slim")
    assert outcome.lines == (f"python:3.12-slim: {fake.stored[0].manifest}",)
    do(fake, "push --compression zstd python:3.12-slim")
    assert fake.done == [
        ("push", "python:3.12-slim gzip"),
        ("push", "python:3.12-slim zstd"),
    ]
    with pytest.raises(ImageNotFound):
        do(fake, "push unknown")


def test_tag_has_nothing_to_say(fake):
    assert do(fake, "tag python:3.12-slim mine/python:1").lines == ()
    assert fake.done == [("tag", "python:3.12-slim mine/python:1")]


def test_commit_says_the_id(fake):
    outcome = do(fake, "commit -m why -a Ada gone mine/box:1")
    assert fake.done == [("commit", "gone mine/box:1 why Ada")]
    assert outcome.lines == (str(fake.image("mine/box:1").id),)
    do(fake, "commit gone")
    assert fake.done[1:] == [("commit", "gone None  ")]
    with pytest.raises(Conflict, match="stop it first"):
        do(fake, "commit up mine/box:1")


def test_save_and_load_name_files(fake):
    assert do(fake, "save -o out.tar mine/box:1 two").lines == ()
    named, nameless = do(fake, "load -i in.tar").lines
    assert named == "Loaded image: mine/box:1"
    assert nameless.startswith("Loaded image ID: sha256:")
    assert fake.done == [("save", "mine/box:1 two out.tar"), ("load", "in.tar")]


def test_export_and_import_name_files(fake):
    assert do(fake, "export -o out.tar gone").lines == ()
    words = "import -m why --platform linux/arm64 in.tar mine/flat"
    assert do(fake, words, SOURCE_DATE_EPOCH="5").lines == (str(fake.stored[0].id),)
    asked = ImportRequest("why", (), "linux/arm64", 5)
    assert fake.done == [("export", "gone out.tar"), ("import", f"in.tar mine/flat {asked}")]
    with pytest.raises(InvalidInput, match="SOURCE_DATE_EPOCH 'x' is not valid"):
        do(fake, "import in.tar", SOURCE_DATE_EPOCH="x")


def test_inspect_knows_containers_and_images(fake):
    documents = do(fake, "inspect gone python:3.12-slim").documents
    assert documents["gone"]["exit_code"] == 137
    assert documents["gone"]["limits"]["memory"] == 64 << 20
    assert documents["python:3.12-slim"]["size_bytes"] == 123_456_789
    with pytest.raises(NotFound, match="neither a container nor an image"):
        do(fake, "inspect zip")


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("login", ("", "to Username: ", "secret to Password: ")),
        ("login -u anna quay.io", ("quay.io", "anna", "secret to Password: ")),
        ("login -u anna --password-stdin quay.io", ("quay.io", "anna", "from stdin")),
    ],
)
def test_login_asks_for_what_was_not_said(fake, line, given):
    (text,) = do(fake, line).lines
    assert fake.logins == [given]
    assert text.startswith(f"Login Succeeded: {given[1]} on {given[0] or 'docker.io'}, kept")
    assert given[2] not in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("login -p sesame quay.io", "leave -p out and you are asked"),
        ("login -u anna --password=sesame", "leave -p out and you are asked"),
        ("login --password-stdin", "--password-stdin needs -u"),
    ],
)
def test_a_password_is_not_taken_from_the_words(fake, line, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        do(fake, line)
    assert "sesame" not in str(caught.value)
    assert fake.logins == []


def test_logout_says_whether_there_was_anything(fake):
    assert do(fake, "logout").lines == ("Removed the login credentials for docker.io",)
    assert do(fake, "logout quay.io").lines == ("Not logged in to quay.io",)


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


def test_doctor_has_a_row_for_each_rung_and_for_what_is_wrong_in_the_store(fake):
    listing = do(fake, "doctor")
    assert isinstance(listing, Listing)
    assert [row.status for row in listing.table.rows] == ["ok", "missing", "stale"]
    assert listing.table.rows[2].found == "socket of 0123456789ab"
    assert listing.table.rows[2].remedy == "doctor --repair"
    assert list(frame(listing.table).columns) == ["name", "status", "found", "lost", "remedy"]
    assert text(listing.table, View(utc_now())).splitlines()[2:5] == [
        "limit --cpus   missing   no cpu controller",
        "   lost: --cpus is refused",
        "   to get it: mount it",
    ]
    assert do(fake, "doctor --json").style == "json"
    assert do(fake, "doctor --repair").table.rows[2].status == "swept"


@pytest.mark.parametrize(("name", "status"), [("limit --cpus", 0), ("overlay", 1)])
def test_doctor_fails_where_containers_cannot_run(fake, monkeypatch, name, status):
    checks = (Check("kernel", "ok", "6.18"), Check(name, "missing", "not there", "it", "get it"))
    monkeypatch.setattr(fake, "doctor", lambda **_: Diagnosis(checks))
    assert do(fake, "doctor").exit_status == status
    assert render(do(fake, "doctor")) == status


@pytest.mark.parametrize("answer", ["", "n", "yess"])
def test_reset_removes_nothing_without_a_yes(fake, answer):
    asked = replace(call(fake, "system reset"), asking=Says(answer))
    fake.reset = lambda *, force: pytest.fail("nobody agreed")
    verb = VERBS["system"].verbs["reset"]
    assert verb.action(asked) == Acknowledged(("Nothing was removed",))


@pytest.mark.parametrize("answer", ["y", "Yes"])
def test_reset_tells_what_it_removed(fake, answer):
    fake.boxes.clear()
    done = (
        VERBS["system"]
        .verbs["reset"]
        .action(replace(call(fake, "system reset"), asking=Says(answer)))
    )
    assert done.lines == (
        "Deleted containers: 0",
        "Deleted images: 1",
        "Deleted layers: 2",
        "Deleted kernelspecs: 0",
        "Total reclaimed space: 1.23MB",
        "Left in /var/lib/cellblock: thesis.tex",
    )


def test_reset_by_force_asks_nobody(fake):
    fake.boxes.append(container("web", "running"))
    with pytest.raises(Conflict, match="running"):
        VERBS["system"].verbs["reset"].action(replace(call(fake, "system reset"), asking=Says("y")))
    assert do(fake, "system reset -f").lines[0] == f"Deleted containers: {len(fake.boxes)}"


class Says(Answers):
    """A user who says one thing to everything."""

    def __init__(self, words: str) -> None:
        self.words = words

    def visible(self, prompt: str, *, otherwise: str) -> str:
        assert "will be removed" in prompt
        assert "-f" in otherwise
        return self.words


def test_stats_are_of_those_named_or_of_all_that_run(fake):
    for line in ("stats up", "stats"):
        outcome = do(fake, line)
        assert isinstance(outcome, Listing)
        (row,) = outcome.table.rows
        assert (row.name, row.cpus, row.cpu_seconds) == ("up", 0.5, fake.readings * 0.1)
        assert (row.memory_bytes, row.memory_limit_bytes, row.pids) == (48 << 20, None, 3)
    with pytest.raises(Conflict, match="it uses nothing"):
        do(fake, "stats up gone")
    with pytest.raises(ContainerNotFound):
        do(fake, "stats nosuch")


def test_stats_are_shown_as_docker_shows_them_and_keep_their_types(fake):
    fake.boxes[0] = replace(fake.boxes[0], limits=Limits(memory="64m", cpus=0.5))
    table = do(fake, "stats up").table
    titles, shown = text(table, View(utc_now())).splitlines()
    assert re.split(r" {2,}", titles) == [
        "CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "PIDS",
    ]  # fmt: skip
    assert re.split(r" {2,}", shown)[1:] == ["up", "50.00%", "48 MiB / 64 MiB", "75.00%", "3"]
    data = frame(table)
    assert (data.memory_bytes[0], data.cpus[0]) == (48 << 20, 0.5)
    assert "48 MiB" in repr(data[["memory_bytes"]])


def test_what_is_not_counted_is_not_made_up(fake, monkeypatch):
    nothing = Stats(None, None, None, None, None, None, None, 1.0)
    monkeypatch.setattr("support.fake_engine.Container.stats", lambda self: nothing)
    shown = text(do(fake, "stats up").table, View(utc_now())).splitlines()[1]
    assert re.split(r" {2,}", shown)[2:] == ["--", "-- / no limit", "--", "--"]


def test_update_changes_what_is_given(fake):
    line = "update -m 64m --memory-swap 128m --cpus 0.5 --pids-limit 9 up gone"
    assert do(fake, line) == Acknowledged(("up", "gone"))
    wanted = Limits(memory="64m", cpus=0.5, pids=9, memory_swap="128m")
    assert fake.done == [(f"update {wanted}", "up"), (f"update {wanted}", "gone")]
    with pytest.raises(InvalidInput, match="memory limit '64x' is not a size"):
        do(fake, "update -m 64x up")
    with pytest.raises(InvalidInput, match="CONTAINER"):
        do(fake, "update -m 64m")
