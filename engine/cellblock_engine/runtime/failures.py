"""Why a start failed, as one line a caller can act on."""

from __future__ import annotations

import errno
import os
from typing import Any

from ..errors import CellblockError
from .process import StageFailed
from .spec import ProcessSpec

_NOT_EXECUTABLE = (errno.EACCES, errno.ENOEXEC, errno.EISDIR, errno.EPERM, errno.ETXTBSY)
_KERNEL_VIEWS = ("proc on /proc", "sysfs on /sys")


def as_error(error: StageFailed | CellblockError | OSError, process: ProcessSpec) -> dict[str, Any]:
    """Return ``{"kind": <class in errors.py>, "message": <one line>}``."""
    if isinstance(error, StageFailed):
        return _of_stage(error, process)
    if isinstance(error, CellblockError):
        return {"kind": type(error).__name__, "message": str(error)}
    if isinstance(error, ConnectionError):
        return _failed("cannot start: a process of the container ended before it was ready")
    if isinstance(error, TimeoutError):
        return _failed("cannot start: the container was not ready in time; is the machine busy?")
    if error.filename == "clone3" and error.errno in (errno.EPERM, errno.ENOSPC, errno.EUSERS):
        return {
            "kind": "Unsupported",
            "message": f"cannot start: this machine allows no new user namespace "
            f"({error.strerror}); see user.max_user_namespaces and kernel.apparmor_restrict_*",
        }
    name = error.filename
    place = f" ({os.fsdecode(name)})" if isinstance(name, (str, bytes)) and name else ""
    return _failed(f"cannot start: {error.strerror}{place}")


def removed_meanwhile(name: str) -> dict[str, Any]:
    """Return the failure of a start whose container somebody removed, whatever it ran into."""
    return {
        "kind": "ContainerNotFound",
        "message": f"container {name} was removed while it started: make another",
    }


def _of_stage(error: StageFailed, process: ProcessSpec) -> dict[str, Any]:
    match error.stage:
        case "execute":
            return _of_execution(error, repr(process.argv[0]))
        case "enter" if error.code == errno.EAGAIN:
            return _failed(
                "cannot start: as many processes run in the container as its limit allows; end "
                "some, or give more with --pids-limit"
            )
        case "user" | "working directory":
            user, cwd = f"as user {process.user!r}", f"in working directory {process.cwd!r}"
            return _failed(f"cannot start {user if error.stage == 'user' else cwd}: {error.text}")
        case "ulimits":
            return {
                "kind": "LimitNotEnforceable",
                "message": f"cannot set a ulimit: {error.text}; give less, or leave it out",
            }
        case "root file system" if error.code == errno.EPERM and any(
            words in error.text for words in _KERNEL_VIEWS
        ):
            return _failed(  # mount_too_revealing() of the kernel's fs/namespace.c
                "cannot start: this machine shows only part of /proc or /sys (is it a container "
                "itself?), and the kernel then allows no new one; run it with both unmasked"
            )
        case _:
            return _failed(f"cannot start: {error.stage}: {error.text}")


def _of_execution(error: StageFailed, command: str) -> dict[str, Any]:
    if error.code == errno.ENOENT:
        return {
            "kind": "CommandNotFound",
            "message": f"command {command} was not found in the container: check its name, "
            "its PATH and, for a script, the interpreter in its first line",
        }
    if error.code in _NOT_EXECUTABLE:
        return {
            "kind": "CommandNotExecutable",
            "message": f"command {command} cannot be executed in the container: {error.text}",
        }
    return _failed(f"cannot start: {error.stage}: {error.text}")


def _failed(message: str) -> dict[str, Any]:
    return {"kind": "StartFailed", "message": message}
