"""Containers that are created first and started later, or started again."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from cellblock_engine import (
    Bind,
    CellblockError,
    CommandNotFound,
    Conflict,
    ContainerNotFound,
    InvalidInput,
    NotFound,
    Removal,
    RunRequest,
)
from cellblock_engine.runtime import launcher, sweep
from cellblock_engine.runtime.root.building import Source

pytestmark = pytest.mark.usefixtures("root")
COUNT = ("sh", "-c", "echo x >> /kept; cat /kept; exit 3")


def test_a_created_container_waits_until_it_is_started(engine):
    container = engine.create(RunRequest(argv=COUNT, name="box", labels={"a": "b"}))
    info = container.inspect()
    assert (info.status, info.exit_code, info.pid) == ("created", None, None)
    assert info.labels == {"a": "b"}
    with pytest.raises(Conflict, match="not running"):
        container.exec(["true"])
    engine.start("box")
    assert container.wait().exit_code == 3
    container.remove()
    assert engine.containers() == ()


@pytest.mark.attack(11)
@pytest.mark.parametrize("place", ["shared", "shared/own"])
def test_a_link_that_another_put_where_a_bind_was_is_not_followed(engine, tmp_path, place):
    own, secret = tmp_path / "shared" / "own", tmp_path / "secret"
    own.mkdir(parents=True)
    (secret / "own").mkdir(parents=True)
    bind = Bind(own, "/own", writable=True)
    engine.create(RunRequest(argv=("touch", "/own/planted"), name="box", binds=(bind,)))
    engine.start("box").wait()
    assert (own / "planted").exists()
    (tmp_path / place).rename(tmp_path / "aside")
    (tmp_path / place).symlink_to(secret)
    with pytest.raises(InvalidInput, match=r"leads to .*secret"):
        engine.start("box")
    assert [path.name for path in secret.rglob("*")] == ["own"]


@pytest.mark.attack(11)
@pytest.mark.parametrize("place", ["folder", "folder/below"])
def test_a_link_put_after_a_look_at_the_path_is_not_followed(tmp_path, place):
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "secret" / "below").mkdir(parents=True)
    source = Source(str(tmp_path / "folder" / "below"), "caller")
    os.close(source.open(None))
    (tmp_path / place).rename(tmp_path / "aside")
    (tmp_path / place).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        source.open(None)


def test_what_was_written_stays_and_the_log_goes_on(engine):
    container = engine.create(RunRequest(argv=COUNT, name="box"))
    for round_ in (1, 2, 3):
        assert engine.start(container.id[:6]).wait().exit_code == 3
        assert container.inspect().exit_code == 3
        assert b"".join(record.data for record in container.logs()).count(b"x") == sum(
            range(round_ + 1)
        )


def test_it_can_be_followed_with_its_input(engine):
    engine.create(RunRequest(argv=("cat",), name="box", interactive=True))
    for text in (b"one", b"two"):
        with engine.spawn("box") as attached:
            out, _, end = attached.communicate(text, most_bytes=100)
        assert (out, end.exit_code) == (text, 0)


def test_a_pulled_image_starts_again(base_engine, base_image):
    base_engine.create(RunRequest(image=base_image, argv=COUNT, name="again"))
    base_engine.start("again").wait()
    with base_engine.spawn("again") as attached:
        assert attached.communicate(None, most_bytes=100)[0] == b"x\nx\n"


def test_a_container_that_cannot_start_stays(engine, tmp_path):
    engine.create(RunRequest(argv=("nosuch",), name="box"))
    for _ in range(2):
        with pytest.raises(CommandNotFound):
            engine.start("box")
        assert engine.container("box").inspect().status == "created"
    folder = tmp_path / "folder"
    folder.mkdir()
    engine.create(RunRequest(argv=("true",), name="bound", binds=(Bind(folder, "/x"),)))
    folder.rmdir()
    with pytest.raises(NotFound, match="cannot bind"):
        engine.start("bound")
    assert engine.container("bound").inspect().status == "created"


def test_one_that_runs_or_is_not_there_is_not_started(engine):
    engine.start(RunRequest(argv=("sleep", "100"), name="box"))
    with pytest.raises(Conflict, match="running already"):
        engine.start("box")
    with pytest.raises(ContainerNotFound):
        engine.start("nosuch")
    assert engine.container("box").exec(["true"]).exit_code == 0


def test_of_many_starts_at_once_one_wins_and_nothing_is_lost(engine):
    engine.create(RunRequest(argv=("sleep", "100"), name="box"))
    outcomes: list[str] = []

    def start() -> None:
        try:
            engine.start("box")
            outcomes.append("started")
        except CellblockError:
            outcomes.append("refused")

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 3 + ["started"]
    assert engine.container("box").exec(["true"]).exit_code == 0


def test_a_created_container_is_not_swept_and_one_with_rm_goes_at_its_end(engine, monkeypatch):
    container = engine.create(RunRequest(argv=("true",), name="box", removal=Removal.AT_END))
    layout_home = engine.info().home
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    directory = os.fspath(layout_home / "containers" / container.id)
    assert sweep.settle(directory, "/nosuch.sock")
    monkeypatch.undo()
    with engine.spawn("box") as attached:
        assert attached.wait(30).exit_code == 0
    assert engine.containers() == ()


@pytest.mark.parametrize("new", [True, False])
def test_one_that_is_removed_while_it_starts_says_so(engine, monkeypatch, new):
    launch = launcher.launch

    def removed_first(*arguments):
        engine.container("box").remove(force=True)
        return launch(*arguments)

    request = RunRequest(argv=("true",), name="box")
    if not new:
        engine.create(request)
    monkeypatch.setattr(launcher, "launch", removed_first)
    with pytest.raises(ContainerNotFound, match="box was removed while it started"):
        engine.start(request if new else "box")
    assert engine.containers() == ()
