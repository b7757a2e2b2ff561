"""Programs run in an ordinary user's container, and the owners written down beside its files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from support.inside import PRELUDE
from support.ordinary import OrdinaryUser

_RUN = """
import json, os, sys
from pathlib import Path
from cellblock_engine import Bind, Engine, Removal, RunRequest
{before}
owners = {{}}
with Engine.open() as engine:
    request = RunRequest(argv=(sys.executable, "-c", {program!r}), binds={binds}, timeout_s=50)
    container = engine.start(request)
    end = container.wait(timeout_s=60)
    log = b"".join(record.data for record in container.logs()).decode()
    for upper in (Path(engine.home) / "containers" / container.id).glob("upper*/fs"):
        for path in (upper, *upper.rglob("*")):
            if "user.cellblock.owner" in os.listxattr(path, follow_symlinks=False):
                value = os.getxattr(path, "user.cellblock.owner", follow_symlinks=False)
                owners[str("/" / path.relative_to(upper))] = value.decode()
    container.remove()
{after}
print(json.dumps([end.exit_code, log, owners]))
"""


@dataclass(frozen=True)
class Recorded:
    """What a program noted as ``outcome``, and the owners by path."""

    outcome: dict[str, Any]
    owners: dict[str, str]


def recorded(
    user: OrdinaryUser, program: str, *, before: str = "", after: str = "", binds: str = "()"
) -> Recorded:
    """Run Python code in a container of the host image; outside the user runs code round it.

    It finds what :data:`support.inside.PRELUDE` has.
    """
    program = f"{PRELUDE}\n{program}\nprint(json.dumps(outcome))"
    done = user.run_python(_RUN.format(program=program, before=before, after=after, binds=binds))
    assert done.returncode == 0, done.stderr
    status, log, owners = json.loads(done.stdout)
    assert status == 0, log
    return Recorded(json.loads(log), owners)
