"""What cannot be meant or done: one line that says what, why and what to do; nothing stays."""

from __future__ import annotations

import pytest

from cellblock_engine import Engine, Limits, RunRequest, errors

NO_DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["run", "-m", "64x", "IMAGE", "true"], "64x"),
        (["run", "--memory=-5m", "IMAGE", "true"], "-5m"),
        (["run", "--cpus", "many", "IMAGE", "true"], "many"),
        (["run", "--pids-limit", "few", "IMAGE", "true"], "few"),
        (["run", "--timeout", "soon", "IMAGE", "true"], "soon"),
        (["run", "--network", "moon", "IMAGE", "true"], "moon"),
        (["run", "--no-such-flag", "IMAGE", "true"], "--no-such-flag"),
        (["run", "--name", "../../x", "IMAGE", "true"], "../../x"),
        (["run", "-e", "=x", "IMAGE", "true"], "="),
        (["run", "-u", "4294967296", "IMAGE", "true"], "4294967296"),
        (["run", "-u", "nobody-here", "IMAGE", "true"], "nobody-here"),
        (["run", "-w", "relative", "IMAGE", "true"], "relative"),
        (["run", "127.0.0.1:9/no-such-image:latest", "true"], "no-such-image"),
        (["run", "a/UPPER", "true"], "a/UPPER"),
        (["exec", "no-such-container", "true"], "no-such-container"),
        (["logs", "no-such-container"], "no-such-container"),
        (["rm", "no-such-container"], "no-such-container"),
        (["rmi", "no-such-image"], "no-such-image"),
        (["inspect", "no-such-thing"], "no-such-thing"),
        (["pull", "a//b"], "a//b"),
        (["no-such-verb"], "no-such-verb"),
        (["commit", "no-such-container", "mine/box"], "no-such-container"),
        (["tag", "no-such-image", "mine/box"], "no-such-image"),
        (["tag", "IMAGE", f"mine/box@{NO_DIGEST}"], "has a digest"),
        (["tag", "IMAGE", "mine/Box"], "mine/Box"),
        (["tag", "IMAGE", NO_DIGEST], NO_DIGEST),
        (["commit", "-c", "RUN true", "no-such-container"], "RUN"),
        (["commit", "--exclude", "[", "no-such-container"], "["),
        (["commit", "--no-such-flag", "no-such-container"], "--no-such-flag"),
        (["freeze"], "--explain"),
        (["freeze", "--python", "no-such-python", "mine/env"], "no-such-python"),
        (["freeze", "--project", "/no/such/folder", "mine/env"], "/no/such/folder"),
        (["freeze", "mine/Env"], "mine/Env"),
        (["export", "no-such-container"], "no-such-container"),
        (["import", "/no/such/file", "mine/flat"], "/no/such/file"),
        (["import", "/etc/passwd", "mine/flat"], "refused"),
        (["import", "-c", "RUN true", "/dev/null", "mine/flat"], "RUN"),
        (["import", "--platform", "a/b/c/d", "/dev/null", "mine/flat"], "a/b/c/d"),
        (["packages", "no-such-image"], "no-such-image"),
        (["packages", "--container", "no-such-container"], "no-such-container"),
        (["provenance", "no-such-image"], "no-such-image"),
        (["search", "127.0.0.1:9/no-such"], "127.0.0.1:9"),
        (["search", "--limit", "0", "no-such"], "limit 0"),
        (["search", "--filter", "big", "no-such"], "big"),
        (["lock", "/no/such/file.ipynb"], "/no/such/file.ipynb"),
        (["lock", "/etc/passwd"], "/etc/passwd"),
        (["lock", "--check", "--image", "IMAGE", "x.ipynb"], "--check"),
        (["run-notebook", "/no/such/file.ipynb"], "/no/such/file.ipynb"),
        (["run-notebook", "--timeout", "soon", "x.ipynb"], "soon"),
        (["diff", "IMAGE"], "is an image"),
        (["push", "mine/no-such-image:1"], "mine/no-such-image:1"),
        (["push", f"mine/box@{NO_DIGEST}"], "has a digest"),
        (["push", "host"], "host"),
        (["rmi", f"mine/box@{NO_DIGEST}"], NO_DIGEST),
        (["history", "no-such-image"], "no-such-image"),
        (["history", NO_DIGEST], NO_DIGEST),
        (["diff", "no-such-container"], "no-such-container"),
        (["diff", "IMAGE", "no-such-image"], "no-such-image"),
        (["save", "-o", "/dev/null", "no-such-image"], "no-such-image"),
        (["save", "-o", "/no/such/file", "IMAGE"], "/no/such/file"),
        (["save", "-o", "/dev", "IMAGE"], "/dev"),
        (["load", "-i", "/no/such/file"], "/no/such/file"),
        (["load", "-i", "/etc/passwd"], "cannot be read as images"),
        (["load", "-i", "/etc"], "no archive of images"),
        (["load"], "neither"),
    ],
)
def test_one_line_that_names_it(
    cellblock, base_engine: Engine, base_image: str, argv: list[str], named: str
) -> None:
    done = cellblock(*[base_image if word == "IMAGE" else word for word in argv])
    assert done.returncode == (125 if argv[0] == "run" else done.returncode)
    assert done.returncode != 0
    assert done.stdout == ""
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    *progress, message = done.stderr.splitlines()
    assert message.startswith("cellblock: ")
    assert all(named in line for line in progress), "but for the lines of a pull"
    assert base_engine.containers() == ()


def test_name_in_use(base_engine: Engine, base_image: str) -> None:
    request = RunRequest(image=base_image, argv=("sleep", "60"), name="taken")
    first = base_engine.start(request)
    with pytest.raises(errors.Conflict, match="taken"):
        base_engine.start(request)
    assert [known.id for known in base_engine.containers()] == [first.id]
    first.remove(force=True)
    base_engine.start(request).remove(force=True)


def test_image_in_use(base_engine: Engine, base_image: str) -> None:
    container = base_engine.start(RunRequest(image=base_image, argv=("sleep", "60")))
    with pytest.raises(errors.Conflict):
        base_engine.remove_image(base_image)
    assert base_engine.image(base_image)
    container.remove(force=True)


def test_a_failed_start_leaves_no_container(base_engine: Engine, base_image: str) -> None:
    with pytest.raises(errors.CommandNotFound, match="no-such-command") as raised:
        base_engine.run(base_image, ["no-such-command"])
    assert "\n" not in str(raised.value)
    with pytest.raises(errors.CommandNotExecutable, match="/etc/passwd"):
        base_engine.run(base_image, ["/etc/passwd"])
    assert base_engine.containers() == ()


def test_memory_below_the_floor(base_engine: Engine, base_image: str) -> None:
    with pytest.raises(errors.InvalidInput):
        base_engine.run(base_image, ["true"], limits=Limits(memory=1024))
