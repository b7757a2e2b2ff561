"""An ordinary user with subordinate ids: many users inside, none of them another's outside."""

from __future__ import annotations

from support.ordinary import SUBORDINATE_IDS, OrdinaryUser

IDS = """
from cellblock_engine.linux import idmaps
idmaps.enter(idmaps.subordinate())
print(open("/proc/self/uid_map").read())
"""


def test_the_user_has_subordinate_ids(subordinate_user: OrdinaryUser) -> None:
    done = subordinate_user.run_python(IDS)
    assert done.returncode == 0, done.stderr
    first, second = (line.split() for line in done.stdout.splitlines()[:2])
    assert first == ["0", str(subordinate_user.uid), "1"]
    if subordinate_user.mounts is not None:
        assert second == ["1", str(SUBORDINATE_IDS[0]), "65535"]
