"""The process that works on an ordinary user's store is killed while it does."""

from __future__ import annotations

import pytest

from support.ordinary import OrdinaryUser

KILLED = '''
import os
from cellblock_engine.errors import StoreError
from cellblock_engine.layout import Layout
from cellblock_engine.store import Store

JOB = """
import os, signal
os.mkdir(place)
os.mkdir(place + "/below")
open(place + "/below/file", "w").close()
if users > 1:
    for name in ("/below/file", "/below"):
        os.chown(place + name, 5, 6)
os.chmod(place + "/below", 0)
os.chmod(place, 0o700)
os.kill(os.getpid(), signal.SIGKILL)
"""
layout = Layout.default()
store = Store(layout)
with store.spool():
    pass
before = set(os.listdir(layout.staging))
place = str(layout.staging / "left")
try:
    store.inside.run(exec, JOB, {"place": place, "users": store.inside.maps().inside.users})
except StoreError as error:
    assert "was killed by signal 9" in str(error) and "\\n" not in str(error), error
else:
    raise AssertionError("it was not killed")
below = os.stat(place + "/below").st_uid
assert (below == os.getuid()) == store.inside.maps().is_single
store.sweep()
assert "left" not in os.listdir(layout.staging)
'''


@pytest.mark.attack(70)
@pytest.mark.parametrize("fixture", ["subordinate_user", "ordinary_user"])
def test_what_it_leaves_is_swept_whoever_it_belongs_to(
    request: pytest.FixtureRequest, fixture: str
) -> None:
    user: OrdinaryUser = request.getfixturevalue(fixture)
    done = user.run_python(KILLED)
    assert done.returncode == 0, done.stderr
