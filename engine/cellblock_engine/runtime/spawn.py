"""The script that becomes the spawner; see :mod:`.spawner`. Imports nothing before it has a path.

Run as ``python -I -S spawn.py ENGINE_PARENT CONTAINERS NAMES IDS LOCK INODE LISTENER_FD``.
"""

import os
import sys

if os.fork():
    os._exit(0)  # the caller waits for this one; the spawner is nobody's child

# Behind the standard library, which nothing beside the engine can shadow therefore.
sys.path.append(sys.argv[1])

from cellblock_engine.runtime.spawner import Spawner

Spawner(*sys.argv[2:6], inode=int(sys.argv[6]), listener_fd=int(sys.argv[7])).serve()
