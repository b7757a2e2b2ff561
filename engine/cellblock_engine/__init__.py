"""The container engine: images, containers, layers, limits. It knows nothing of notebooks.

This module is the engine's door: what is named here is public, and is imported on first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .commit import Commit
    from .comparison import Change
    from .container import AttachedRun, Container, LogRecord, Result
    from .doctor import Check, Diagnosis
    from .engine import Engine, EngineInfo
    from .errors import (
        AccessDenied,
        CellblockError,
        CommandNotExecutable,
        CommandNotFound,
        Conflict,
        ContainerNotFound,
        DigestMismatch,
        DiskFull,
        ImageNotFound,
        InvalidAnswer,
        InvalidArchive,
        InvalidDigest,
        InvalidInput,
        InvalidLayer,
        InvalidReference,
        Killed,
        LimitNotEnforceable,
        NotFound,
        OutOfMemory,
        PidsExceeded,
        PlatformNotFound,
        RegistryError,
        RegistryUnavailable,
        StartFailed,
        StoreError,
        StoreFull,
        TimedOut,
        Unsupported,
        Verdict,
    )
    from .explanation import Explanation
    from .freezing.image import FreezeEvent, Frozen, FrozenLayer
    from .history import HistoryRow
    from .image import Image, RemovedImage
    from .imagerequest import CommitRequest, FreezeRequest, ImportRequest
    from .inspection import ContainerInfo
    from .limits import LIMITS_MODES, Limits, best_effort_line, parse_bytes, parse_seconds
    from .oci.config import ImageConfig
    from .oci.digest import Digest
    from .oci.platform import Platform
    from .oci.provenance import ExecutedCell, Provenance
    from .oci.reference import Reference
    from .packages.package import Package, PackageChange
    from .privileges import Ulimit, check_security_option, parse_ulimit
    from .progress import Progress, TransferEvent
    from .pruning import DiskUsage, Pruned
    from .registry.search import FoundImage
    from .removal import Removal
    from .request import (
        HOST_IMAGE,
        NETWORKS,
        ExecRequest,
        RunRequest,
    )
    from .reset import Reset
    from .runtime.attached import Attached, Exit
    from .settings import KernelDefaults, Registries, RunDefaults, Settings
    from .signals import parse_signal
    from .stats import Stats
    from .units import format_bytes
    from .volumes import Bind, Tmpfs, parse_mount, parse_tmpfs, parse_volume

_HOMES = {
    "commit": ("Commit",),
    "comparison": ("Change",),
    "container": ("AttachedRun", "Container", "LogRecord", "Result"),
    "doctor": ("Check", "Diagnosis"),
    "engine": ("Engine", "EngineInfo"),
    "errors": (
        "AccessDenied",
        "CellblockError",
        "CommandNotExecutable",
        "CommandNotFound",
        "Conflict",
        "ContainerNotFound",
        "DigestMismatch",
        "DiskFull",
        "ImageNotFound",
        "InvalidAnswer",
        "InvalidArchive",
        "InvalidDigest",
        "InvalidInput",
        "InvalidLayer",
        "InvalidReference",
        "Killed",
        "LimitNotEnforceable",
        "NotFound",
        "OutOfMemory",
        "PidsExceeded",
        "PlatformNotFound",
        "RegistryError",
        "RegistryUnavailable",
        "StartFailed",
        "StoreError",
        "StoreFull",
        "TimedOut",
        "Unsupported",
        "Verdict",
    ),
    "explanation": ("Explanation",),
    "freezing.image": ("FreezeEvent", "Frozen", "FrozenLayer"),
    "history": ("HistoryRow",),
    "image": ("Image", "RemovedImage"),
    "imagerequest": ("CommitRequest", "FreezeRequest", "ImportRequest"),
    "inspection": ("ContainerInfo",),
    "limits": ("LIMITS_MODES", "Limits", "best_effort_line", "parse_bytes", "parse_seconds"),
    "oci.config": ("ImageConfig",),
    "oci.digest": ("Digest",),
    "oci.platform": ("Platform",),
    "oci.provenance": ("ExecutedCell", "Provenance"),
    "oci.reference": ("Reference",),
    "packages.package": ("Package", "PackageChange"),
    "privileges": ("Ulimit", "check_security_option", "parse_ulimit"),
    "progress": ("Progress", "TransferEvent"),
    "pruning": ("DiskUsage", "Pruned"),
    "registry.search": ("FoundImage",),
    "removal": ("Removal",),
    "request": (
        "HOST_IMAGE",
        "NETWORKS",
        "ExecRequest",
        "RunRequest",
    ),
    "reset": ("Reset",),
    "runtime.attached": ("Attached", "Exit"),
    "settings": ("KernelDefaults", "Registries", "RunDefaults", "Settings"),
    "signals": ("parse_signal",),
    "stats": ("Stats",),
    "units": ("format_bytes",),
    "volumes": ("Bind", "Tmpfs", "parse_mount", "parse_tmpfs", "parse_volume"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "HOST_IMAGE",
    "LIMITS_MODES",
    "NETWORKS",
    "AccessDenied",
    "Attached",
    "AttachedRun",
    "Bind",
    "CellblockError",
    "Change",
    "Check",
    "CommandNotExecutable",
    "CommandNotFound",
    "Commit",
    "CommitRequest",
    "Conflict",
    "Container",
    "ContainerInfo",
    "ContainerNotFound",
    "Diagnosis",
    "Digest",
    "DigestMismatch",
    "DiskFull",
    "DiskUsage",
    "Engine",
    "EngineInfo",
    "ExecRequest",
    "ExecutedCell",
    "Exit",
    "Explanation",
    "FoundImage",
    "FreezeEvent",
    "FreezeRequest",
    "Frozen",
    "FrozenLayer",
    "HistoryRow",
    "Image",
    "ImageConfig",
    "ImageNotFound",
    "ImportRequest",
    "InvalidAnswer",
    "InvalidArchive",
    "InvalidDigest",
    "InvalidInput",
    "InvalidLayer",
    "InvalidReference",
    "KernelDefaults",
    "Killed",
    "LimitNotEnforceable",
    "Limits",
    "LogRecord",
    "NotFound",
    "OutOfMemory",
    "Package",
    "PackageChange",
    "PidsExceeded",
    "Platform",
    "PlatformNotFound",
    "Progress",
    "Provenance",
    "Pruned",
    "Reference",
    "Registries",
    "RegistryError",
    "RegistryUnavailable",
    "Removal",
    "RemovedImage",
    "Reset",
    "Result",
    "RunDefaults",
    "RunRequest",
    "Settings",
    "StartFailed",
    "Stats",
    "StoreError",
    "StoreFull",
    "TimedOut",
    "Tmpfs",
    "TransferEvent",
    "Ulimit",
    "Unsupported",
    "Verdict",
    "best_effort_line",
    "check_security_option",
    "format_bytes",
    "parse_bytes",
    "parse_mount",
    "parse_seconds",
    "parse_signal",
    "parse_tmpfs",
    "parse_ulimit",
    "parse_volume",
]

_OF_LINUX = frozenset(
    {
        "commit",
        "comparison",
        "container",
        "doctor",
        "engine",
        "explanation",
        "freezing.image",
        "runtime.attached",
    }
)


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if sys.platform != "linux" and home in _OF_LINUX:
        from .errors import Unsupported  # noqa: PLC0415 - seldom

        raise Unsupported(
            f"cellblock needs Linux, and this is {sys.platform}: containers are made by its "
            "kernel; run the notebook on a Linux machine, or in a Linux virtual machine "
            "(WSL 2, Lima)"
        )
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
