"""The script that becomes the spawner; see :mod:`.spawner`. Imports nothing before it has a path.

Run as ``python -I -S spawn.py ENGINE_PARENT CONTAINERS NAMES IDS LOCK INODE LISTENER_FD``. It waits
for a line on its standard input, which says whether systemd gave it control groups; without one
its caller is gone.
"""

import os
import sys

told = os.read(0, 4096)  # whoever is born from here on is where that put this process

if os.fork():
    os._exit(0)  # the caller waits for this one; the spawner is nobody's child

# Behind the standard library, which nothing beside the engine can shadow therefore.
sys.path.append(sys.argv[1])

from cellblock_engine.runtime.spawner import Spawner  # noqa: E402 - there is a path only now

Spawner(
    *sys.argv[2:6], inode=int(sys.argv[6]), listener_fd=int(sys.argv[7]), told=told.decode().strip()
).serve()
