"""Amounts as people read them."""

from __future__ import annotations


def format_bytes(count: int) -> str:
    """Return ``count`` bytes in the binary unit a reader would use, as ``64 MiB``."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
