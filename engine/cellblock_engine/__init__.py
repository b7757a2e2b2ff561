"""The container engine: images, containers, layers, limits. It knows nothing of notebooks.

This module is the engine's door: what is named here is public, and is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .container import AttachedRun, Container, ContainerInfo, LogRecord, Result
    from .engine import Engine, EngineInfo
    from .errors import (
        AccessDenied,
        CellblockError,
        CommandNotExecutable,
        CommandNotFound,
        Conflict,
        ContainerNotFound,
        DigestMismatch,
        ImageNotFound,
        InvalidAnswer,
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
    from .image import Image, RemovedImage
    from .limits import Limits, parse_bytes, parse_seconds
    from .oci.config import ImageConfig
    from .oci.digest import Digest
    from .oci.platform import Platform
    from .oci.reference import Reference
    from .progress import Progress, PullEvent
    from .request import HOST_IMAGE, NETWORKS, Bind, ExecRequest, RunRequest
    from .runtime.attached import Attached, Exit
    from .signals import parse_signal
    from .units import format_bytes

_HOMES = {
    "container": ("AttachedRun", "Container", "ContainerInfo", "LogRecord", "Result"),
    "engine": ("Engine", "EngineInfo"),
    "errors": (
        "AccessDenied",
        "CellblockError",
        "CommandNotExecutable",
        "CommandNotFound",
        "Conflict",
        "ContainerNotFound",
        "DigestMismatch",
        "ImageNotFound",
        "InvalidAnswer",
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
    "image": ("Image", "RemovedImage"),
    "limits": ("Limits", "parse_bytes", "parse_seconds"),
    "oci.config": ("ImageConfig",),
    "oci.digest": ("Digest",),
    "oci.platform": ("Platform",),
    "oci.reference": ("Reference",),
    "progress": ("Progress", "PullEvent"),
    "request": ("HOST_IMAGE", "NETWORKS", "Bind", "ExecRequest", "RunRequest"),
    "runtime.attached": ("Attached", "Exit"),
    "signals": ("parse_signal",),
    "units": ("format_bytes",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "HOST_IMAGE",
    "NETWORKS",
    "AccessDenied",
    "Attached",
    "AttachedRun",
    "Bind",
    "CellblockError",
    "CommandNotExecutable",
    "CommandNotFound",
    "Conflict",
    "Container",
    "ContainerInfo",
    "ContainerNotFound",
    "Digest",
    "DigestMismatch",
    "Engine",
    "EngineInfo",
    "ExecRequest",
    "Exit",
    "Image",
    "ImageConfig",
    "ImageNotFound",
    "InvalidAnswer",
    "InvalidDigest",
    "InvalidInput",
    "InvalidLayer",
    "InvalidReference",
    "Killed",
    "LimitNotEnforceable",
    "Limits",
    "LogRecord",
    "NotFound",
    "OutOfMemory",
    "PidsExceeded",
    "Platform",
    "PlatformNotFound",
    "Progress",
    "PullEvent",
    "Reference",
    "RegistryError",
    "RegistryUnavailable",
    "RemovedImage",
    "Result",
    "RunRequest",
    "StartFailed",
    "StoreError",
    "StoreFull",
    "TimedOut",
    "Unsupported",
    "Verdict",
    "format_bytes",
    "parse_bytes",
    "parse_seconds",
    "parse_signal",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
