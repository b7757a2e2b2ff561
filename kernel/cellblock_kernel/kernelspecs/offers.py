"""Kernels that an image offers: from what it lists to what goes into kernelspecs of ours.

All of it is the image's word. Known fields alone are taken, bounded; words that Jupyter would
fill in with facts of this machine are refused, and what is to be set in the environment is set
inside only, never for the gate. It touches no file. See "Kernel specs" in the documentation of
jupyter_client.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from cellblock_engine import InvalidInput

from ..gate.options import CONNECTION_FILE
from ..guest.probe import MOST_BYTES
from ..outputs.text import one_line

PYTHON = "python3"
"""What Jupyter calls the kernel of a Python."""
_MOST_LISTED_BYTES = 1 << 20
_MOST_KERNELS = 32
_MOST_WORDS, _LONGEST_WORD = 64, 4096
_LONGEST_TITLE, _LONGEST_LANGUAGE = 100, 40
_NAME = re.compile(r"[a-z0-9._-]{1,40}", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FOLDER = "{resource_dir}"
_TEMPLATE = re.compile(r"\{[A-Za-z0-9_]+\}")  # KernelManager.format_kernel_cmd


@dataclass(frozen=True)
class Offer:
    """A kernel in an image: its command there, and what launchers need to know of it."""

    name: str
    argv: tuple[str, ...]
    display_name: str
    language: str
    interrupt_mode: Literal["signal", "message"] = "signal"
    env: tuple[str, ...] = ()

    @property
    def has_debugger(self) -> bool:
        """Tell whether it is ipykernel, the debugger of which is known to work."""
        return not {"ipykernel", "ipykernel_launcher"}.isdisjoint(self.argv)


@dataclass(frozen=True)
class Listed:
    """A kernel.json in an image, as it is, and the folder that it is in."""

    folder: str
    content: bytes


def of_python(python: str) -> Offer:
    """Return the kernel of a Python that has ipykernel."""
    argv = (python, "-m", "ipykernel_launcher", "-f", CONNECTION_FILE)
    return Offer(PYTHON, argv, "Python", "python")


def listed(listing: bytes, image: str) -> dict[str, Listed]:
    """Return the kernelspecs of a listing by name; of two of one name the first, as Jupyter does.

    Names that Jupyter does not take are left out. Raises InvalidInput.
    """
    if len(listing) > _MOST_LISTED_BYTES:
        raise InvalidInput(f"the kernelspecs of image {image} are larger than 1 MiB together")
    *records, rest = listing.split(b"\0")
    found: dict[str, Listed] = {}
    for record in records:
        line, _, content = record.partition(b"\n")
        path = PurePosixPath(line.decode(errors="replace"))
        if not path.is_absolute() or path.name != "kernel.json":
            rest = line
            break
        if _NAME.fullmatch(path.parent.name):
            found.setdefault(path.parent.name.lower(), Listed(str(path.parent), content))
    if rest:
        raise InvalidInput(
            f"what image {image} lists are no kernelspecs: {one_line(repr(rest), _LONGEST_TITLE)}"
        )
    if len(found) > _MOST_KERNELS:
        raise InvalidInput(f"image {image} has more than {_MOST_KERNELS} kernelspecs")
    return found


def read(name: str, found: Listed, image: str) -> Offer:
    """Return what a kernel.json offers. Raises InvalidInput."""
    try:
        return _offer(name, _document(found.content), found.folder)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"kernelspec {name} of image {image} is refused: {one_line(str(error), 200)}; "
            "choose another kernel of the image with --kernel"
        ) from error


def _document(content: bytes) -> Mapping[str, Any]:
    if len(content) > MOST_BYTES:
        raise ValueError("it is larger than 64 KiB")
    document = json.loads(content)
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - one kind for all that is wrong
    return document


def _offer(name: str, document: Mapping[str, Any], folder: str) -> Offer:
    argv = document.get("argv")
    if not isinstance(argv, list) or not 0 < len(argv) <= _MOST_WORDS:
        raise ValueError(f"argv is not a list of 1 to {_MOST_WORDS} words")
    words = tuple(_word(word, "argv").replace(_FOLDER, folder) for word in argv)
    templates = {each for word in words for each in _TEMPLATE.findall(word)}
    if templates != {CONNECTION_FILE}:
        raise ValueError(f"argv has to name {CONNECTION_FILE}, and nothing else in braces")
    env = document.get("env", {})
    if not isinstance(env, dict) or len(env) > _MOST_WORDS:
        raise ValueError(f"env is not an object of at most {_MOST_WORDS} variables")
    mode = document.get("interrupt_mode", "signal")
    if mode not in ("signal", "message"):
        raise ValueError("interrupt_mode is neither signal nor message")
    return Offer(
        name,
        words,
        _title(document, "display_name", _LONGEST_TITLE),
        _title(document, "language", _LONGEST_LANGUAGE),
        mode,
        tuple(_variable(key, value) for key, value in env.items()),
    )


def _variable(name: str, value: object) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError(f"env has {name!r}, which is no name of a variable")
    word = _word(value, f"env {name}")
    if _TEMPLATE.search(word):
        raise ValueError(f"env {name} has something in braces to be filled in")
    return f"{name}={word}"


def _title(document: Mapping[str, Any], field: str, length: int) -> str:
    title = one_line(_word(document.get(field), field), length)
    if not title:
        raise ValueError(f"{field} is empty")
    return title


def _word(value: object, field: str) -> str:
    """Return a text that a command can have."""
    if not isinstance(value, str):
        raise ValueError(f"{field} is not made of text")  # noqa: TRY004 - as above
    if len(value) > _LONGEST_WORD or "\0" in value:
        raise ValueError(f"{field} has a NUL character or is longer than {_LONGEST_WORD}")
    value.encode()  # UnicodeEncodeError, a ValueError, for half a surrogate pair
    return value
