"""What code in a container tries to use up. Each test is named by the attack's number."""

from __future__ import annotations

import time

import pytest

from cellblock_engine import Engine, Limits, Removal, RunRequest, errors
from support import capabilities
from support.attempts import BY_LINE
from support.inside import assert_refused, attack

pytestmark = pytest.mark.usefixtures("root")

ANSWER_S = 5.0  # generous: the machine is shared


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param("import os\nwhile True:\n try: os.fork()\n except OSError: pass", id="fork"),
        pytest.param(
            "import threading, time\nwhile True:\n"
            " try: threading.Thread(target=time.sleep, args=(60,)).start()\n"
            " except RuntimeError: time.sleep(0.01)",
            id="thread",
        ),
    ],
)
def test_21_fork_and_thread_bombs(base_engine: Engine, base_image: str, bomb: str) -> None:
    limits = Limits(memory="256m", cpus=1, pids=50)
    request = RunRequest(
        image=base_image, argv=("python3", "-c", bomb), limits=limits, removal=Removal.AT_END
    )
    with base_engine.spawn(request) as attached:
        time.sleep(1)
        started = time.monotonic()
        base_engine.run(base_image, ["true"]).check()
        assert time.monotonic() - started < ANSWER_S
        assert attached.container.inspect().status == "running"
        started = time.monotonic()
        attached.kill()
        ended = attached.wait(timeout_s=20)
        assert time.monotonic() - started < ANSWER_S
        assert ended.exit_code == 137


MEMORY_BOMBS = {
    "anonymous": "x = [bytearray(b'x') * (1 << 20) for _ in range(400)]",
    "shm": "f = open('/dev/shm/x', 'wb')\nfor _ in range(400): f.write(b'x' * (1 << 20))",
    "memfd": "import os\nf = os.memfd_create('x')\n"
    "for _ in range(400): os.write(f, b'x' * (1 << 20))",
    "children": "import os, sys\nfor _ in range(8):\n"
    " if os.fork() == 0:\n  x = bytearray(b'x') * (100 << 20); os._exit(0)\n"
    "sys.exit(any([os.wait()[1] for _ in range(8)]))",
}


@pytest.mark.parametrize("kind", MEMORY_BOMBS)
def test_22_memory_bombs(base_engine: Engine, base_image: str, kind: str) -> None:
    capabilities.need_memory_cgroup()
    sibling = base_engine.start(RunRequest(image=base_image, argv=("sleep", "120")))
    done = base_engine.run(
        base_image,
        ["python3", "-c", MEMORY_BOMBS[kind]],
        limits=Limits(memory="48m", pids=50),
        timeout=40,
    )
    assert done.exit_code != 0
    assert isinstance(done.verdict, errors.OutOfMemory), (done.verdict, done.stderr)
    assert done.verdict.limit_bytes == 48 << 20
    assert done.verdict.own
    assert sibling.inspect().status == "running"
    assert sibling.exec(["true"]).exit_code == 0
    sibling.remove(force=True)


@pytest.mark.parametrize(
    "line", [pytest.param(n, marks=pytest.mark.attack(n), id=f"line {n}") for n in (16, 21, 22)]
)
def test_what_docker_is_tried_with(base_engine: Engine, base_image: str, line: int) -> None:
    """The milder forms that `make peers` runs on Docker, whose defaults allow them."""
    capabilities.need_memory_cgroup()
    code, refusals = BY_LINE[line]
    assert_refused(attack(base_engine, base_image, code), *refusals)
