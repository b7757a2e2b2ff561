"""``--limits=best-effort`` without control groups: what stands in, and that it is told."""

from __future__ import annotations

import json
import math
import os

import pytest

from support.ordinary import OrdinaryUser

MEBIBYTE = 1 << 20
GROUPS = """
import json, os
from cellblock_engine.linux import cgroups
print(json.dumps(sorted(cgroups.discover(os.getpid()).missing())))
"""
ENGINE = """
import json, sys
from cellblock_engine import Conflict, Engine, Limits, LimitNotEnforceable, RunRequest
with Engine.open() as engine:
    def best(**limits):
        return Limits(**limits, mode="best-effort")
    def run(program, **limits):
        done = engine.run("host", [sys.executable, "-c", program], limits=best(**limits))
        return [done.exit_code, done.stdout.decode(), done.stderr.decode()[-200:], done.verdict]
"""
TAKE = "print(len(b'x' * ({} << 20)) >> 20, flush=True)"
FORK = """
import os, time
started = 0
try:
    while started < 100:
        if not os.fork():
            time.sleep(60)
        started += 1
except BlockingIOError:
    print(started)
"""


@pytest.fixture(name="user", params=["ordinary_user", "subordinate_user"])
def _user(request: pytest.FixtureRequest) -> OrdinaryUser:
    user: OrdinaryUser = request.getfixturevalue(request.param)
    missing = json.loads(user.run_python(GROUPS).stdout)
    if not {"memory", "pids", "cpus", "cpuset-cpus", "cpu-shares"} <= set(missing):
        pytest.skip("needs a user without control groups: this one has some delegated")
    return user


def answer(user: OrdinaryUser, code: str) -> object:
    indented = "".join(f"    {line}\n" for line in code.strip().splitlines())
    done = user.run_python(ENGINE + indented)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_memory_is_limited_for_each_process_and_told(user: OrdinaryUser) -> None:
    told = "print(open('/proc/meminfo').readline().split()[1])"
    small, large, total = answer(
        user,
        f"print(json.dumps([run({TAKE.format(60)!r}, memory='256m'),"
        f" run({TAKE.format(300)!r}, memory='256m'), run({told!r}, memory='256m')]))",
    )
    assert small[:2] == [0, "60\n"]
    assert large[:2] == [1, ""]
    assert large[2].endswith("MemoryError\n")
    assert large[3] is None  # no counter says whose memory it was
    assert total[1] == f"{256 * 1024}\n"


def test_no_command_gets_more_also_later_and_after_another_start(user: OrdinaryUser) -> None:
    code = f"""
box = engine.start(RunRequest(argv=("sleep", "100"), limits=best(memory="256m", pids=9)))
argv = [sys.executable, "-c", {TAKE.format(300)!r}]
found = [box.exec(argv).exit_code]
raising = "import resource as r; r.setrlimit(r.RLIMIT_AS, (1 << 40, 1 << 40))"
found.append("not allowed to raise" in box.exec([sys.executable, "-c", raising]).stderr.decode())
try:
    box.update(Limits(memory="1g"))
except Conflict as error:
    found.append(str(error).split(box.name)[1])
box.stop(grace_s=0)
found.append(box.update(Limits(memory="512m")).memory_bytes)
box = engine.start(box.id)
found.append(box.exec(argv).stdout.decode())
info = box.inspect()
found += [info.limits.memory_bytes, info.limits.pids, info.replaced_limits]
box.remove(force=True)
print(json.dumps(found))
"""
    *found, replaced = answer(user, code)
    refused = (
        " is limited in memory by best effort, which cannot change while it runs: stop it first"
    )
    assert found == [1, True, refused, 512 * MEBIBYTE, "300\n", 512 * MEBIBYTE, 9]
    assert replaced["memory"] == "512 MiB of addresses for each process by itself (RLIMIT_AS)"
    assert replaced["pids"] == "9 for each user inside (RLIMIT_NPROC)"


def test_processes_are_as_many_as_asked_for_whatever_runs_outside(user: OrdinaryUser) -> None:
    assert answer(user, f"print(json.dumps(run({FORK!r}, pids=8)))")[:2] == [0, "7\n"]


def test_processors_are_some_or_those_named(user: OrdinaryUser) -> None:
    program = "import os; print(sorted(os.sched_getaffinity(0)), os.cpu_count())"
    last = max(os.sched_getaffinity(0))
    some, named, other = answer(
        user,
        f"""
found = [run({program!r}, cpus=0.5)[1], run({program!r}, cpuset_cpus="{last}")[1]]
try:
    run("", cpuset_cpus="4097")
except LimitNotEnforceable as error:
    found.append(str(error))
print(json.dumps(found))
""",
    )
    numbers, _, count = some.strip().rpartition(" ")
    assert (len(json.loads(numbers)), count) == (math.ceil(0.5), "1")
    assert named == f"[{last}] 1\n"
    assert other.startswith("cannot limit to cpuset-cpus 4097: the processors to be had are")


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ("memory='64m', memory_swap='128m'", "memory-swap"),
        ("cpu_shares=512", "cpu-shares"),
        ("memory_reservation='64m'", "memory-reservation"),
    ],
)
def test_what_nothing_can_stand_in_for_is_refused_by_name(
    user: OrdinaryUser, limits: str, name: str
) -> None:
    code = f"""
try:
    run("", {limits})
except LimitNotEnforceable as error:
    print(json.dumps([str(error), len(engine.containers())]))
"""
    text, containers = answer(user, code)
    assert text.startswith(f"cannot enforce a limit on {name}: ")
    assert text.endswith("nothing weaker can stand in for it")
    assert containers == 0


def test_the_command_line_says_what_stands_in(user: OrdinaryUser) -> None:
    line = "cellblock: limits by best effort, as no control group can enforce them here: "
    flags = ("-m", "256m", "--cpus", "1")
    done = user.run_cellblock("run", "--rm", "--limits=best-effort", *flags, "host", "echo", "out")
    assert (done.returncode, done.stdout) == (0, "out\n")
    assert done.stderr.startswith(f"{line}memory: 256 MiB of addresses")
    assert done.stderr.count("\n") == 1
    assert "cpus: 1 processor to run on" in done.stderr

    plan = user.run_cellblock("run", "--explain", "--limits=best-effort", *flags, "host", "true")
    assert "  memory, by best effort: 256 MiB of addresses" in plan.stdout
    assert "none was asked for (--memory)" not in plan.stdout

    made = user.run_cellblock("create", "--limits", "best-effort", *flags, "host", "true")
    assert made.stderr.startswith(line)
    (shown,) = json.loads(user.run_cellblock("inspect", made.stdout.strip()).stdout)
    assert user.run_cellblock("rm", made.stdout.strip()).returncode == 0
    assert set(shown["replaced_limits"]) == {"memory", "cpus"}


def test_it_is_refused_without_and_settings_and_flags_decide(user: OrdinaryUser) -> None:
    words = ("run", "--rm", "-m", "256m", "host", "true")
    refused = user.run_cellblock(*words)
    assert refused.returncode == 125
    assert "cannot enforce a limit on memory: " in refused.stderr
    assert "--limits=best-effort" in refused.stderr

    settled = {"CELLBLOCK_RUN_LIMITS": "best-effort"}
    program = [user.python, "-m", "cellblock"]
    done = user.run([*program, *words], env=settled)
    assert done.returncode == 0
    assert "by best effort" in done.stderr
    again = user.run([*program, "run", "--limits=enforce", *words[1:]], env=settled)
    assert again.returncode == 125
    misspelt = user.run([*program, *words], env={"CELLBLOCK_RUN_LIMITS": "some"})
    assert "CELLBLOCK_RUN_LIMITS limits 'some' is not known" in misspelt.stderr


CELL = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "cellblock")
for number in (60, 300):
    print(shell.run_cell(
        "%%container run --limits=best-effort -m 256m\\n"
        f"print(len(b'x' * ({number} << 20)) >> 20)"
    ).success)
"""


def test_a_cell_says_it_and_gets_a_memory_error(user: OrdinaryUser) -> None:
    done = user.run_python(CELL)
    assert "60\nTrue\n" in done.stdout, done.stderr
    assert done.stdout.rstrip().endswith("False")
    assert "MemoryError" in done.stdout + done.stderr
    assert done.stderr.count("limits by best effort") == 2


KERNEL = """
import nbformat, pathlib
from nbclient import NotebookClient
folder = pathlib.Path.home() / "weak notebooks"
folder.mkdir()
greedy = "try:\\n    b'x' * (2 << 30)\\nexcept MemoryError:\\n    print('caught')"
cells = [nbformat.v4.new_code_cell(each) for each in (greedy, "%container limits")]
notebook = nbformat.v4.new_notebook(cells=cells)
where = {"metadata": {"path": str(folder)}}
NotebookClient(notebook, kernel_name="weaker", resources=where, timeout=60).execute()
for cell in notebook.cells:
    print(*[each.get("text", "") for each in cell.outputs])
"""


def test_a_notebook_kernel(user: OrdinaryUser) -> None:
    flags = ("--user", "--name", "weaker", "--limits=best-effort", "-m", "2g")
    done = user.run_cellblock("kernel", "install", "host", *flags)
    assert "limits by best effort" in done.stderr, done.stderr
    assert "limits=best-effort" in user.run_cellblock("kernel", "list").stdout
    ran = user.run_python(KERNEL)
    assert ran.stdout.startswith("caught\n"), ran.stderr
    assert "memory by best effort:" in ran.stdout
    assert "2 GiB of addresses" in ran.stdout
    assert "limits by best effort" in ran.stderr  # in the log of whoever starts kernels
