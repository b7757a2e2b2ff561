"""``make peers``: the attacks that are code inside a container, on cellblock and on Docker alike.

Needs root and Debian's docker.io. Docker runs twice: as it comes, and with the flags that stand for
cellblock's own limits. The daemon is ours, has no bridge, and ends with us. Attacks on the network,
on images and on what surrounds a container are not compared.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from cellblock_engine import Engine, Limits
from support import images
from support.attempts import BY_LINE
from support.document import rewrite
from support.inside import PRELUDE
from support.registry import serving

from . import peers

PROJECT = Path(__file__).resolve().parents[1]
DOCUMENT = PROJECT / "docs" / "security.md"
BEGIN, END = "<!-- docker table: begin -->", "<!-- docker table: end -->"
IMAGE = "base"
MEMORY, PIDS = "256m", 64
FLAGS = ("--network", "none", "--memory", MEMORY, "--pids-limit", str(PIDS))
MAX_NAMED = 14

Run = Callable[[str], str]
"""Runs a Python program as root of a new container and returns what it printed."""


def main() -> int:
    """Attack, and write the table."""
    if os.geteuid() != 0:
        sys.stderr.write("attacks_on_docker: run as root, as the daemon does\n")
        return 1
    script = runpy.run_path(str(PROJECT / "scripts" / "attack-table"))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cb-peers-")))
        docker = peers.docker(stack, directory / "docker")
        if docker is None:
            sys.stderr.write("attacks_on_docker: docker is not installed (docker.io)\n")
            return 1
        docker("import", str(images.base_tar()), IMAGE)
        columns = {
            "cellblock": _cellblock(stack, directory),
            "`docker run`": _docker(docker, ()),
            f"`docker run {' '.join(FLAGS)}`": _docker(docker, FLAGS),
        }
        lines = [_versions(docker), ""]
        lines += [f"| line | attack | {' | '.join(columns)} |", "|---:|---" + "|---" * 3 + "|"]
        for line in BY_LINE:
            answers = " | ".join(_verdict(line, run) for run in columns.values())
            lines.append(f"| {line} | {script['LINES'][line]} | {answers} |")
    rewrite(DOCUMENT, "\n".join([*lines, "", *_remarks()]), BEGIN, END)
    print("\n".join(lines))
    return 0


def _cellblock(stack: ExitStack, directory: Path) -> Run:
    registry = stack.enter_context(serving(directory / "registry"))
    image = registry.push(images.base_layout(), IMAGE)
    engine = stack.enter_context(Engine.open(directory / "store"))
    engine.pull(image)

    def run(program: str) -> str:
        limits = Limits(memory=MEMORY, pids=PIDS)
        done = engine.run(image, ["python3", "-c", program], limits=limits, timeout=120)
        return done.stdout.decode()

    return run


def _docker(docker: peers.Docker, flags: tuple[str, ...]) -> Run:
    def run(program: str) -> str:
        try:
            return docker("run", "--rm", *flags, IMAGE, "python3", "-c", program)
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"the attack itself failed in Docker: {error.stderr}") from error

    return run


def _verdict(line: int, run: Run) -> str:
    """Return "refused", or which attempts of a line were let through or answered otherwise."""
    code, refusals = BY_LINE[line]
    outcome = json.loads(run(f"{PRELUDE}\n{code}\nprint(json.dumps(outcome))"))
    writable = outcome.pop("writable mounts", [])
    outcome.pop("native", None)  # the probe's own proof that it works
    outcome.pop("chroot", None)  # it changes nothing for whoever is root of the tree
    through = [name for name, answer in outcome.items() if answer == "allowed"]
    through += [f"{path} is writable" for path in writable]
    others = {a for a in outcome.values() if a not in refusals and a != "allowed"}
    return ", ".join(_words(len(outcome), through, sorted(others)))


def _words(tried: int, through: list[str], others: list[str]) -> Iterator[str]:
    if through:
        more = f" and {len(through) - MAX_NAMED} more" if len(through) > MAX_NAMED else ""
        names = ", ".join(f"`{name}`" for name in through[:MAX_NAMED])
        yield f"**let through** ({len(through)} of {tried}): {names}{more}"
    else:
        yield "refused"
    if others:
        yield f"otherwise {', '.join(others)}"


def _versions(docker: peers.Docker) -> str:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    server = docker("version", "--format", "{{.Server.Version}}").strip()
    facts = docker("info", "--format", "{{.SecurityOptions}}, cgroup v{{.CgroupVersion}}").strip()
    return (
        f"Last run: {today}, Linux {platform.release()} on {platform.machine()}, "
        f"Docker {server} ({facts}), as root, without a bridge."
    )


def _remarks() -> list[str]:
    return [
        f"cellblock ran with a memory limit of {MEMORY} and a pids limit of {PIDS}, its other "
        "defaults unchanged. Line 21 is 300 processes here, and line 22 is 400 MiB, because "
        "Docker's defaults bound neither. Errors that are not those by which cellblock refuses are "
        "named as such. Lines that are not here were not run on Docker.",
        "",
        "To read beside it: what was let through in line 3 is a file and a directory in Docker's "
        "own tmpfs above the hierarchies, not in one of them; in line 5 Docker lets nodes be made, "
        "and its device cgroup decides which may be opened. Programs of i386 and setuid programs "
        "are wanted in Docker, and its `--security-opt no-new-privileges` stops the latter.",
    ]


if __name__ == "__main__":
    raise SystemExit(main())
