"""What code in an ordinary user's container tries: root inside is the owner of files outside."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from cellblock_engine.linux import landlock
from support import attempts
from support.inside import PRELUDE
from support.ordinary import OrdinaryUser

# Tried first: descriptors for reading and the changes an owner may make even to a running program.
EVIL = """#!/proc/self/exe
import os
os.chmod("/proc/self/exe", 0o777)
os.utime("/proc/self/exe", (1, 1))
print("pwned")
"""
ATTACK = """
import json
from cellblock_engine import Engine, RunRequest, errors

evil = {evil!r}
tries = (
    ["/evil"],
    ["/link"],
    ["/proc/self/exe", "-c", evil],
    ["/proc/thread-self/exe", "-c", evil],
    ["exe", "-c", evil],
)
outcome = []
with Engine.open() as engine:
    container = engine.start(RunRequest(image="host", argv=("sleep", "60")))
    place = "cat > /evil && chmod +x /evil && ln -s /proc/self/exe /link"
    container.exec(["sh", "-c", place], stdin=evil).check()
    for argv in tries:
        try:
            # Else it may look for its library where only the host has it, and do nothing.
            done = container.exec(argv, env={{"PYTHONHOME": "/usr", "PATH": "/proc/self"}})
            outcome.append(str(done))
        except errors.StartFailed as error:
            outcome.append(type(error).__name__ + ": " + str(error))
    container.remove(force=True)
print(json.dumps(outcome))
"""


@pytest.fixture
def own_interpreter(rootless_user: OrdinaryUser) -> Path:
    """A Python that belongs to the user, as in everybody's own virtual environment."""
    folder = rootless_user.home / "own"
    make = [rootless_user.python, "-m", "venv", "--copies", "--without-pip", folder]
    assert rootless_user.run(make).returncode == 0
    return folder / "bin/python"


def facts(path: Path) -> tuple[int, int, int, str]:
    """Return the owner, the mode, the time of the last change and the hash of a file."""
    status = path.stat()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return status.st_uid, status.st_mode, status.st_mtime_ns, digest


@pytest.mark.skipif(not landlock.available(), reason="needs Landlock (ABI 2, Linux 5.19)")
def test_07_executing_the_engines_program_leaves_it_unchanged(
    rootless_user: OrdinaryUser, own_interpreter: Path
) -> None:
    where = (
        "import cellblock_engine, pathlib, sysconfig\n"
        "rooms = pathlib.Path(cellblock_engine.__file__).parents[1]\n"
        "print(f\"{rooms}:{sysconfig.get_path('purelib')}\")"
    )
    packages = rootless_user.run_python(where)
    before = facts(own_interpreter)
    assert before[0] == rootless_user.uid
    done = rootless_user.run(
        [own_interpreter, "-c", ATTACK.format(evil=EVIL)],
        env={"PYTHONPATH": packages.stdout.strip()},
    )
    assert done.returncode == 0, done.stderr
    assert facts(own_interpreter) == before
    outcome = json.loads(done.stdout)
    assert len(outcome) == 5
    for line in outcome:
        assert line.startswith("CommandNotExecutable: command "), outcome
        assert line.endswith("Permission denied"), outcome


INSIDE = """
import json, sys
from cellblock_engine import Engine
with Engine.open() as engine:
    done = engine.run("host", [sys.executable, "-c", {program!r}], timeout=50)
assert done.exit_code == 0, (done.stderr, done.verdict)
print(done.stdout.decode())
"""
# What is refused also where root inside is the owner of files outside.
LINES = {line: attempts.BY_LINE[line] for line in (1, 2, 3, 4, 5, 6, 12, 13, 14)}


@pytest.mark.parametrize(
    "line", [pytest.param(n, marks=pytest.mark.attack(n), id=f"line {n}") for n in LINES]
)
def test_what_an_ordinary_users_container_is_refused(
    rootless_user: OrdinaryUser, line: int
) -> None:
    code, refusals = LINES[line]
    program = f"{PRELUDE}\n{code}\nprint(json.dumps(outcome))"
    done = rootless_user.run_python(INSIDE.format(program=program))
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome.pop("writable mounts", []) == []
    outcome.pop("chroot", None)  # it changes nothing for whoever is root of the tree
    # It is said to be made, as where there are more ids than one; there is none to be opened.
    outcome = {name: said for name, said in outcome.items() if not name.startswith("mknod")}
    assert outcome, "the attack tried something"
    assert {name: answer for name, answer in outcome.items() if answer not in refusals} == {}


@pytest.mark.attack(18, 65)
def test_an_ordinary_users_container_sees_nothing_of_the_host(rootless_user: OrdinaryUser) -> None:
    secret = rootless_user.home / "secret"
    secret.write_text("do-not-tell-77c2")
    secret.chmod(0o644)
    program = f"""
import json, os
print(json.dumps([os.path.exists({str(secret)!r}), sorted(os.listdir("/home")),
                  os.path.exists("/run/cellblock"), [k for k in os.environ if "TELL" in k],
                  os.listdir("/sys/class/net")]))
"""
    done = rootless_user.run(
        [rootless_user.python, "-c", INSIDE.format(program=program)], env={"TELL_NOT": "secret"}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [False, [], False, [], ["lo"]]
