"""Documents of the project that hold figures of a run, between two comments."""

from __future__ import annotations

from pathlib import Path


def rewrite(document: Path, text: str, begins: str, ends: str) -> None:
    """Replace what stands between the two comments. Raises ValueError where they are missing."""
    before, begin, rest = document.read_text().partition(begins)
    _, end, after = rest.partition(ends)
    if not begin or not end:
        raise ValueError(f"{document} lacks the comments {begins} and {ends}")
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}")
