"""Running containers: spawner, monitor, what runs inside the namespaces, and the way to them.

Who imports what matters here. ``spawner``, ``monitor``, ``init``, ``rootfs``, ``workload``,
``identity`` and what they import run in a small process of their own, on the standard library
alone. ``launcher`` and ``control`` are the caller's side.
"""
