"""Everything the engine raises on purpose.

::

    CellblockError
    |-- InvalidInput              what the caller wrote cannot be meant (also a ValueError)
    |   |-- InvalidReference
    |   `-- InvalidDigest
    |-- NotFound                  (also a LookupError)
    |   |-- ImageNotFound
    |   `-- ContainerNotFound
    |-- Conflict                  a name in use, an image in use, a container in the wrong state
    |-- Unsupported               this kernel, platform or user cannot do it
    |   `-- LimitNotEnforceable
    |-- RegistryError
    |   |-- RegistryUnavailable
    |   |-- AccessDenied
    |   |-- PlatformNotFound
    |   |-- DigestMismatch
    |   `-- InvalidAnswer
    |-- StoreError
    |   |-- StoreFull
    |   |-- InvalidLayer
    |   `-- InvalidArchive
    |-- StartFailed               the container never ran its command (exit status 125)
    |   |-- CommandNotExecutable  (126)
    |   `-- CommandNotFound       (127)
    `-- Verdict                   the container ran, and something other than its command ended it
        |-- OutOfMemory
        |-- PidsExceeded
        |-- DiskFull
        |-- TimedOut
        `-- Killed

Each message is one line: what failed, why, and what to do. Failures of system calls that no
caller could have foreseen stay :class:`OSError` with their errno.
"""

from __future__ import annotations

from .units import format_bytes


class CellblockError(Exception):
    """The root of the tree; catch it to catch everything the engine raises on purpose."""

    exit_status = 125

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle what it is made of: some are made by words of their own, not by a message."""
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[CellblockError], args: tuple[object, ...]) -> CellblockError:
    return kind.__new__(kind, *args)


class InvalidInput(CellblockError, ValueError):
    """A value that cannot be meant: an unknown unit, a name with a slash, a bad flag."""


class InvalidReference(InvalidInput):
    """Not an image reference as Docker parses them."""


class InvalidDigest(InvalidInput):
    """Not ``sha256:`` and 64 lower-case hexadecimal digits."""


class NotFound(CellblockError, LookupError):
    """A thing that was named does not exist."""


class ImageNotFound(NotFound):
    """Neither the store nor, where it was asked, the registry has this image."""


class ContainerNotFound(NotFound):
    """No container has this name or id."""


class Conflict(CellblockError):
    """A name in use, an image in use, or a container in the wrong state for what was asked."""


class Unsupported(CellblockError):
    """The kernel, platform or user cannot do what was asked."""


class LimitNotEnforceable(Unsupported):
    """A limit was asked for that this machine or user has no means to enforce."""


class RegistryError(CellblockError):
    """The registry could not, or would not, serve the image."""


class RegistryUnavailable(RegistryError):
    """No connection, a time-out, or a server error that persisted over the retries."""


class AccessDenied(RegistryError):
    """The registry wants credentials, or does not accept the ones given."""


class PlatformNotFound(RegistryError):
    """The image exists, but not for the platform that was asked for."""


class DigestMismatch(RegistryError):
    """Content does not have the digest or the size under which it was promised."""


class InvalidAnswer(RegistryError):
    """A manifest, index or header that the specifications do not allow."""


class StoreError(CellblockError):
    """The local store could not take or give something."""


class StoreFull(StoreError):
    """No space, inodes or quota left where the store lives."""


class InvalidLayer(StoreError):
    """A layer archive that is damaged, exceeds a cap, or tries to leave its directory."""


class InvalidArchive(StoreError):
    """A file of images that is damaged, exceeds a cap, or does not say what its images are."""


class StartFailed(CellblockError):
    """The container's command never ran."""


class CommandNotExecutable(StartFailed):
    """The command exists, but the kernel refused to execute it."""

    exit_status = 126


class CommandNotFound(StartFailed):
    """The command is not in the container."""

    exit_status = 127


class Verdict(CellblockError):
    """Why something other than the command itself ended a container, from the kernel's counters.

    A run's result carries its verdict; nothing raises it unless asked to
    (:meth:`cellblock_engine.Result.check`).
    """


class OutOfMemory(Verdict):
    """The kernel's OOM killer ended the container.

    ``own`` tells the container's own limit from a limit of its surroundings (the memory cgroup
    of the session, or the machine). ``limit_bytes`` is None where no limit of its own was set.
    """

    def __init__(self, *, limit_bytes: int | None, peak_bytes: int, own: bool) -> None:
        self.limit_bytes, self.peak_bytes, self.own = limit_bytes, peak_bytes, own
        peak = format_bytes(peak_bytes)
        if own and limit_bytes is not None:
            message = (
                f"out of memory: the limit of {format_bytes(limit_bytes)} was reached "
                f"(peak {peak}); give it more with --memory"
            )
        else:
            message = (
                f"out of memory: the memory of the session or machine around the container ran "
                f"out (the container's peak was {peak}); free some, or set a lower --memory"
            )
        super().__init__(message)


class PidsExceeded(Verdict):
    """The command failed after the pids limit had refused it a process or thread."""

    def __init__(self, *, limit: int, refused: int) -> None:
        self.limit, self.refused = limit, refused
        super().__init__(
            f"pids limit: beyond the limit of {limit}, starting a process or thread was refused "
            f"{refused} time{'s' * (refused != 1)}; raise it with --pids-limit"
        )


class DiskFull(Verdict):
    """The command failed, and left no room in the storage it was limited to."""

    def __init__(self, *, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        super().__init__(
            f"disk full: what was written filled the limit of {format_bytes(limit_bytes)} (or "
            "its number of files); give it more with --storage-limit"
        )


class TimedOut(Verdict):
    """The wall-clock limit passed and the container was ended."""

    exit_status = 124

    def __init__(self, *, limit_s: float) -> None:
        self.limit_s = limit_s
        super().__init__(
            f"timed out: the limit of {limit_s:g} s passed; give it more with --timeout"
        )


class Killed(Verdict):
    """The container was ended from outside: by a signal, a stop, or the loss of its monitor."""

    def __init__(self, *, reason: str) -> None:
        self.reason = reason
        super().__init__(f"killed: {reason}")
