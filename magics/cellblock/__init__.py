"""The face of cellblock: the Python API, the ``cellblock`` command and ``%load_ext cellblock``.

This door is lazy (PEP 562): importing it loads nothing of the engine, of pandas or of IPython.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from cellblock_engine import (
        HOST_IMAGE,
        LIMITS_MODES,
        NETWORKS,
        AccessDenied,
        Attached,
        AttachedRun,
        Bind,
        CellblockError,
        Change,
        Check,
        CommandNotExecutable,
        CommandNotFound,
        Commit,
        CommitRequest,
        Conflict,
        Container,
        ContainerInfo,
        ContainerNotFound,
        Diagnosis,
        Digest,
        DigestMismatch,
        DiskFull,
        DiskUsage,
        Engine,
        EngineInfo,
        ExecRequest,
        ExecutedCell,
        Exit,
        Explanation,
        FoundImage,
        FreezeEvent,
        FreezeRequest,
        Frozen,
        FrozenLayer,
        HistoryRow,
        Image,
        ImageConfig,
        ImageNotFound,
        ImportRequest,
        InvalidAnswer,
        InvalidArchive,
        InvalidDigest,
        InvalidInput,
        InvalidLayer,
        InvalidReference,
        KernelDefaults,
        Killed,
        LimitNotEnforceable,
        Limits,
        LogRecord,
        NotFound,
        OutOfMemory,
        Package,
        PackageChange,
        PidsExceeded,
        Platform,
        PlatformNotFound,
        Progress,
        Provenance,
        Pruned,
        Reference,
        Registries,
        RegistryError,
        RegistryUnavailable,
        Removal,
        RemovedImage,
        Reset,
        Result,
        RunDefaults,
        RunRequest,
        Settings,
        StartFailed,
        Stats,
        StoreError,
        StoreFull,
        TimedOut,
        Tmpfs,
        TransferEvent,
        Ulimit,
        Unsupported,
        Verdict,
        best_effort_line,
        check_security_option,
        format_bytes,
        parse_bytes,
        parse_mount,
        parse_seconds,
        parse_signal,
        parse_tmpfs,
        parse_ulimit,
        parse_volume,
    )
    from cellblock_kernel import CellFailed, CellInterrupted, InterpreterLost, OutputRefused

    __version__: str

__all__ = [
    "HOST_IMAGE",
    "LIMITS_MODES",
    "NETWORKS",
    "AccessDenied",
    "Attached",
    "AttachedRun",
    "Bind",
    "CellFailed",
    "CellInterrupted",
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
    "InterpreterLost",
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
    "OutputRefused",
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
    "__version__",
    "best_effort_line",
    "check_security_option",
    "format_bytes",
    "load_ipython_extension",
    "parse_bytes",
    "parse_mount",
    "parse_seconds",
    "parse_signal",
    "parse_tmpfs",
    "parse_ulimit",
    "parse_volume",
    "unload_ipython_extension",
]

_OF_CELLS = ("CellFailed", "CellInterrupted", "InterpreterLost", "OutputRefused")


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Add ``%container`` and ``%%container`` to the shell; IPython calls it for ``%load_ext``."""
    from .magic import load  # noqa: PLC0415 - IPython is there only now

    load(ipython)


def unload_ipython_extension(ipython: InteractiveShell) -> None:
    """Close the engine of the shell; IPython calls it for ``%unload_ext``."""
    from .magic import unload  # noqa: PLC0415 - IPython is there only now

    unload(ipython)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - reading metadata takes time

        return version("cellblock")
    if name in _OF_CELLS:
        import cellblock_kernel  # noqa: PLC0415 - as below

        return getattr(cellblock_kernel, name)
    if name in __all__:
        import cellblock_engine  # noqa: PLC0415 - the door of a lower room, opened on demand

        return getattr(cellblock_engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
