"""Limits on the traffic of disks: what is written for them, on v1 and on v2.

Disks are named by their numbers (``8:0``), and whole: the kernel takes no partition.
Documentation/admin-guide/cgroup-v1/blkio-controller.rst, cgroup-v2.rst (IO Interface Files).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from .group import Limits

V1_WEIGHT = "blkio.bfq.weight"
V1_BFQ = "blkio.bfq.io_serviced"
"""There also in the topmost group, which has no weight."""
V2_WEIGHT = "io.bfq.weight"
V2_THROTTLES = "io.max"
_DISKS = "/sys/block"
UNWEIGHED = "no disk of this machine is scheduled by BFQ"
V1_THROTTLES = {
    "device_read_bps": "blkio.throttle.read_bps_device",
    "device_write_bps": "blkio.throttle.write_bps_device",
    "device_read_iops": "blkio.throttle.read_iops_device",
    "device_write_iops": "blkio.throttle.write_iops_device",
}
_V2_KEYS = {
    "device_read_bps": "rbps",
    "device_write_bps": "wbps",
    "device_read_iops": "riops",
    "device_write_iops": "wiops",
}


def v1_settings(limits: Limits) -> Iterator[tuple[str, str]]:
    """Yield the files of a blkio group and what is written to each, one disk at a time."""
    for name, file in V1_THROTTLES.items():
        for disk, rate in (getattr(limits, name) or {}).items():
            yield file, f"{disk} {rate}"
    if limits.blkio_weight is not None:
        yield V1_WEIGHT, str(limits.blkio_weight)


def v2_settings(limits: Limits) -> Iterator[tuple[str, str]]:
    """Yield the files of a v2 group and what is written to each, one disk at a time."""
    disks: dict[str, list[str]] = {}
    for name, key in _V2_KEYS.items():
        for disk, rate in (getattr(limits, name) or {}).items():
            disks.setdefault(disk, []).append(f"{key}={rate}")
    for disk, rates in disks.items():
        yield V2_THROTTLES, " ".join([disk, *rates])
    if limits.blkio_weight is not None:
        yield V2_WEIGHT, str(limits.blkio_weight)


def weighed() -> bool:
    """Tell whether any disk is scheduled by BFQ, which alone follows weights.

    Documentation/block/switching-sched.rst.
    """
    names = []
    with suppress(OSError):
        names = os.listdir(_DISKS)
    for name in names:
        with suppress(OSError), open(f"{_DISKS}/{name}/queue/scheduler", encoding="ascii") as file:
            if "[bfq]" in file.read():
                return True
    return False
