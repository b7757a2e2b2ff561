"""What a command may do beyond plain user rights: capabilities, ulimits, security options.

Decides which of Docker's words are followed, which change nothing and which are refused, with the
reason. What is refused would let a command go around the filter, the mounts or the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import InvalidInput
from .linux import capabilities

# Within a user namespace these reach nothing but what is the namespace's own.
_HARMLESS = capabilities.DEFAULT | {
    "AUDIT_WRITE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "IPC_OWNER",
    "MKNOD",
    "NET_BROADCAST",
    "NET_RAW",
    "SETPCAP",
    "SYS_NICE",
}
_REASONS = {
    "NET_ADMIN": "it opens the kernel's packet filter and network set-up to the container",
    "SYS_ADMIN": "it allows mounts, which would undo masks and read-only places",
    "SYS_CHROOT": "the system call filter forbids chroot to everybody",
    "SYS_PTRACE": "it lets a command reach into the others, and into the engine's on its way in",
}
_OUTSIDE = "what it is for belongs to the machine, not to a container"

# setrlimit(2), but "as": it counts what is not used. The runtime knows the numbers.
_ULIMITS = tuple(
    "core cpu data fsize memlock msgqueue nice nofile nproc rss rtprio rttime sigpending "
    "stack".split()
)
_LARGEST_ULIMIT = 2**63 - 1


@dataclass(frozen=True)
class Ulimit:
    """A limit of each process (setrlimit(2)); -1 is none. Raises InvalidInput."""

    name: str
    soft: int
    hard: int

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, and core dumps."""
        if self.name not in _ULIMITS:
            raise InvalidInput(f"ulimit {self.name!r} is not known: use {', '.join(_ULIMITS)}")
        for value in (self.soft, self.hard):
            if not -1 <= value <= _LARGEST_ULIMIT:
                raise InvalidInput(f"ulimit {self.name}: {value} is out of range")
        if self.hard != -1 and (self.soft == -1 or self.soft > self.hard):
            raise InvalidInput(f"ulimit {self.name}: the soft limit is above the hard one")
        if self.name == "core" and self.hard:
            raise InvalidInput(
                "ulimit core: core dumps go to the machine's handler, outside of the container; "
                "only 0 is possible"
            )


def parse_ulimit(text: str) -> Ulimit:
    """Return the limit in ``nofile=1024[:2048]``. Raises InvalidInput."""
    name, _, values = text.partition("=")
    soft, colon, hard = values.partition(":")
    try:
        return Ulimit(name, _value(soft), _value(hard if colon else soft))
    except ValueError as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"ulimit {text!r} is not valid: write NAME=SOFT[:HARD]") from None


def held_capabilities(add: Sequence[str], drop: Sequence[str]) -> tuple[str, ...]:
    """Return the capabilities that --cap-add and --cap-drop leave, by name, sorted.

    ``ALL`` may be dropped; what is added then is all there is. Raises InvalidInput.
    """
    added, dropped = (_names(words) for words in (add, drop))
    for name in sorted(added - _HARMLESS):
        if name == "ALL":
            raise InvalidInput(
                "--cap-add ALL would bring SYS_ADMIN and others that are refused: name those needed"
            )
        raise InvalidInput(f"--cap-add {name} is refused: {_REASONS.get(name, _OUTSIDE)}")
    base = frozenset() if "ALL" in dropped else capabilities.DEFAULT - dropped
    return tuple(sorted(base | added))


def check_security_option(text: str) -> str:
    """Return ``no-new-privileges``, which always holds. Raises InvalidInput for all others."""
    key, _, value = text.replace(":", "=", 1).partition("=")
    if key == "no-new-privileges" and value in ("", "true"):
        return key
    if key == "no-new-privileges":
        raise InvalidInput("--security-opt: no-new-privileges always holds and cannot be taken off")
    if key == "seccomp":
        raise InvalidInput(
            f"--security-opt {text} is refused: the system call filter is what keeps mounts, "
            "namespaces and kernel interfaces away, and it is always the same"
        )
    raise InvalidInput(f"--security-opt {text!r} is not known: there is no-new-privileges")


def _names(words: Sequence[str]) -> frozenset[str]:
    names = frozenset(word.upper().removeprefix("CAP_") for word in words)
    for name in names - {"ALL"} - frozenset(capabilities.NAMES):
        raise InvalidInput(f"capability {name!r} is not known; capabilities(7) has their names")
    return names


def _value(text: str) -> int:
    return -1 if text == "unlimited" else int(text)
