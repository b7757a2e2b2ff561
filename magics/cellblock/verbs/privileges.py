"""Flags of run that say what a command may do: capabilities, ulimits, security options."""

from __future__ import annotations

from cellblock_engine import check_security_option, parse_ulimit

from .declaration import Argument

PRIVILEGES = (
    Argument(("--cap-add",), "a capability more", "each", "CAP"),
    Argument(("--cap-drop",), "a capability less, or ALL", "each", "CAP"),
    Argument(
        ("--security-opt",),
        "no-new-privileges (always in force)",
        "each",
        "OPTION",
        convert=check_security_option,
    ),
    Argument(
        ("--ulimit",),
        "a limit of each process: nofile=1024:2048",
        "each",
        "NAME=SOFT[:HARD]",
        convert=parse_ulimit,
    ),
)
