"""The command line on a store of whoever runs the tests, and as whom they run in the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.registry import Registry

USER = os.environ.get("CELLBLOCK_VM_USER", "")  # that of tests/vm/guest.py; elsewhere none
TIMEOUT_S = 280


@dataclass(frozen=True)
class Lab:
    """The command line on one store, which has ``image``."""

    home: Path
    image: str
    registry: Registry

    @property
    def env(self) -> dict[str, str]:
        """The environment of the command."""
        return {**os.environ, "CELLBLOCK_HOME": str(self.home)}

    def run(
        self, *words: str, stdin: str = "", timeout_s: float = TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run the command."""
        return subprocess.run(
            [sys.executable, "-m", "cellblock", *words],
            input=stdin,
            capture_output=True,
            check=False,
            text=True,
            timeout=timeout_s,
            env=self.env,
        )

    def said(self, *words: str) -> str:
        """Return what a command said that must not fail."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def rows(self, *words: str) -> list[dict[str, Any]]:
        """Return a command's table."""
        rows: list[dict[str, Any]] = json.loads(self.said(*words, "--json"))
        return rows

    def listed(self, name: str) -> dict[str, Any] | None:
        """Return what ``ps -a`` says of a container; None where there is none of the name."""
        return next((row for row in self.rows("ps", "-a") if row["name"] == name), None)
