"""What of a cell is not to be recorded; no I/O.

A cell is recorded with its number only where one of its lines is the comment ``cellblock:
secret``, or where the front end sends its tags and one is ``secret``. Of others, what is put into
the environment by ``%env`` or ``os.environ``, and the credentials in URLs, are left out. That is no
search for secrets: others have to be marked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TAG = "secret"
_MARK = re.compile(r"^[ \t]*(?:#|//|--|%|;)+[ \t]*cellblock:[ \t]*secret[ \t\r]*$", re.I | re.M)
_LEFT_OUT = "…"
_MAGIC = re.compile(r"^([ \t]*%(?:set_)?env[ \t]+[^\s=]+)(?:[ \t]*=[ \t]*|[ \t]+)\S.*$", re.M)
# To the end of the string, of a long one too; of one that does not end nothing stays.
_ENVIRON = re.compile(
    r"""(\benviron\[\s*["'][^"'\n]*["']\s*\](?:\s*:\s*str)?\s*=\s*)[rbuf]{0,2}"""
    r"""(?:(\"{3}|'{3})(?:\\.|(?!\2)[^\\])*(?:\2|\Z)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)""",
    re.I | re.S,
)
_CREDENTIALS = re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://)[^\s/@\"']+@", re.I)


def is_secret(source: str, metadata: Mapping[str, Any]) -> bool:
    """Tell whether the source of a cell, sent with this metadata, is not to be recorded."""
    tags = metadata.get("tags")
    return (isinstance(tags, list) and _TAG in tags) or _MARK.search(source) is not None


def discreet(source: str) -> str:
    """Return a cell's source without what is put into the environment, and without credentials."""
    source = _MAGIC.sub(rf"\1={_LEFT_OUT}", source)
    source = _ENVIRON.sub(rf"\1{_LEFT_OUT}", source)
    return _CREDENTIALS.sub(rf"\1{_LEFT_OUT}@", source)
