"""What is kept on disk: blobs as received, layers unpacked, images by reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .store import Store

__all__ = ["Store"]


def __getattr__(name: str) -> object:
    """Import on first use: the unpacker imports modules below and needs nothing else."""
    if name == "Store":
        from .store import Store  # noqa: PLC0415

        return Store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
