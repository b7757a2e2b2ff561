"""Starts by ordinary users, beside those by root: one with subordinate ids, one with a single id.

Each has a process with an engine that stays; its call goes there and back by a pipe, which is
counted. A user who cannot run the image, or have such ids, is left out by name.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from support.ordinary import OrdinaryUser, ordinary_user, subordinate_user

from .rounds import Contestant

_USERS: dict[str, Callable[[], AbstractContextManager[OrdinaryUser]]] = {
    "subordinate ids": subordinate_user,
    "a single id": ordinary_user,
}
_SERVE = """
import sys
from cellblock_engine import CellblockError, Engine
image = sys.argv[1]
with Engine.open() as engine:
    try:
        engine.pull(image)
        engine.run(image, ["true"]).check()
    except CellblockError as error:
        sys.exit(str(error))
    print(flush=True)
    for _ in sys.stdin:
        engine.run(image, ["true"]).check()
        print(flush=True)
"""


def contestants(stack: ExitStack, image: str) -> list[Contestant]:
    """Return the users that there can be here, each with an engine of its own."""
    found = []
    for name, user in _USERS.items():
        try:
            start = stack.enter_context(_starts(user, image))
        except (pytest.skip.Exception, RuntimeError) as reason:
            sys.stderr.write(f"benchmarks: a user with {name} is left out: {reason}\n")
            continue
        found.append(Contestant(f"engine.run, a user with {name}", start))
    return found


@contextmanager
def _starts(
    make: Callable[[], AbstractContextManager[OrdinaryUser]], image: str
) -> Iterator[Callable[[], None]]:
    """Yield what runs ``true`` once. Raises RuntimeError for a user who cannot."""
    with (
        make() as user,
        subprocess.Popen(
            user.command([user.python, "-c", _SERVE, image]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=user.home,
            env=user.environment,
            **user.identity,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr

        def start() -> None:
            stdin.write("\n")
            stdin.flush()
            if stdout.readline() != "\n":
                raise RuntimeError(stderr.read().strip())

        if stdout.readline() != "\n":
            raise RuntimeError(stderr.read().strip())
        yield start
        stdin.close()
