"""What a run of tests was on: it goes into pytest's JUnit report, for scripts/count-table."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
from _pytest.junitxml import xml_key

CGROUPS = Path("/sys/fs/cgroup")


def note(config: pytest.Config) -> None:
    """Put it into the report of this run, where there is one."""
    if (report := config.stash.get(xml_key, None)) is not None:
        for name, value in facts().items():
            report.add_global_property(name, value)


def facts() -> dict[str, str]:
    """Return what is said of an environment, by name."""
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cgroups": cgroups(),
        "uid": str(os.geteuid()),
    }


def cgroups() -> str:
    """Return which hierarchies of control groups are there."""
    if (CGROUPS / "cgroup.controllers").exists():
        return "v2"
    if not (CGROUPS / "memory").is_dir():
        return "none"
    return "hybrid" if (CGROUPS / "unified" / "cgroup.procs").exists() else "v1"
