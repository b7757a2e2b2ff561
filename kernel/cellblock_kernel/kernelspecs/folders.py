"""Where kernelspecs lie: installing, listing and removing ours among everybody's."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_core.paths import SYSTEM_JUPYTER_PATH, jupyter_data_dir

from cellblock_engine import Conflict, InvalidInput, NotFound

from .spec import is_ours, options_of

FILE = "kernel.json"
_LOGOS = Path(__file__).parent / "logos"
_MAX_BYTES = 1 << 20
_PRIVATE, _PUBLIC, _FOLDER = 0o600, 0o644, 0o755


@dataclass(frozen=True)
class Kernelspec:
    """An installed kernelspec of ours; ``digest`` is its image's id, None for the host's."""

    name: str
    display_name: str
    language: str
    image: str
    digest: str | None
    limits: str
    network: str
    workspace: str
    where: str
    store: str | None


def folder(place: Path | Literal["user", "system"]) -> Path:
    """Return the folder of kernelspecs of a prefix, of the user, or of the machine."""
    if place == "user":
        return Path(jupyter_data_dir()) / "kernels"
    if place == "system":
        return Path(SYSTEM_JUPYTER_PATH[0]) / "kernels"
    return Path(place) / "share" / "jupyter" / "kernels"


def refuse_anothers(name: str, into: Path) -> None:
    """Raise Conflict where a kernelspec of this name is there and not ours."""
    target = into / name
    if target.is_symlink() or (target.exists() and _read(target) is None):
        raise Conflict(
            f"a kernelspec {name} that is not cellblock's is in {target}: choose another --name"
        )


def write_kernelspec(name: str, document: Mapping[str, Any], into: Path, *, private: bool) -> Path:
    """Write a kernelspec, in place of one of ours of that name; return its folder.

    A ``private`` one only its owner can read. Raises Conflict where the name is another's,
    PermissionError where the folder cannot be written.
    """
    target = into / name
    refuse_anothers(name, into)
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cellblock-", dir=into) as staging:
            made = Path(staging) / "spec"
            shutil.copytree(_LOGOS, made)
            file = made / FILE
            file.touch(_PRIVATE)
            file.write_text(json.dumps(document, indent=1) + "\n")
            file.chmod(_PRIVATE if private else _PUBLIC)
            made.chmod(_FOLDER)
            if target.exists():
                target.rename(Path(staging) / "old")
            made.rename(target)
    except PermissionError as error:
        hint = "cannot be written by you: install it with --user or --prefix"
        raise PermissionError(error.errno, hint, str(into)) from error
    return target


def installed_kernelspecs() -> tuple[Kernelspec, ...]:
    """Return our kernelspecs that Jupyter finds (JUPYTER_PATH and all), by name."""
    found = []
    for name, path in sorted(KernelSpecManager().find_kernel_specs().items()):
        document = _read(Path(path))
        if document is not None:
            found.append(_row(name, path, document))
    return tuple(found)


def read_kernelspec(name: str) -> dict[str, Any]:
    """Return the kernel.json of ours that Jupyter finds by ``name``. Raises NotFound."""
    path = KernelSpecManager().find_kernel_specs().get(name.lower())
    document = None if path is None else _read(Path(path))
    if document is None:
        raise NotFound(f"no kernelspec {name} of cellblock: see kernel list")
    return document


def remove_kernelspec(name: str) -> Path:
    """Remove the kernelspec of ours that Jupyter finds by ``name``; return where it was.

    Raises NotFound, Conflict for one that is not ours, PermissionError.
    """
    path = KernelSpecManager().find_kernel_specs().get(name.lower())
    if path is None:
        raise NotFound(f"no kernelspec {name}: see kernel list")
    if _read(Path(path)) is None:
        raise Conflict(f"kernelspec {name} in {path} is not cellblock's: see jupyter kernelspec")
    shutil.rmtree(path)
    return Path(path)


def remove_kernelspecs_of(store: Path) -> tuple[Path, ...]:
    """Remove the kernelspecs that Jupyter finds and this store's engine installed.

    Returns where they were. Raises PermissionError.
    """
    return tuple(
        remove_kernelspec(spec.name)
        for spec in installed_kernelspecs()
        if spec.store == os.fspath(store)
    )


def _read(path: Path) -> dict[str, Any] | None:
    """Return the kernel.json of a spec of ours; None for others and what is no kernelspec."""
    try:
        with (path / FILE).open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and is_ours(document) else None


def _row(name: str, path: str, document: Mapping[str, Any]) -> Kernelspec:
    facts = document["metadata"]["cellblock"]
    display, language = str(document.get("display_name", name)), str(document.get("language", ""))
    image, digest = str(facts.get("image", "")), facts.get("digest")
    digest = digest if isinstance(digest, str) else None
    store = facts.get("store")
    store = store if isinstance(store, str) else None
    try:
        kernel = options_of([str(word) for word in document["argv"]]).kernel
    except InvalidInput:  # of another version of cellblock
        return Kernelspec(name, display, language, image, digest, "?", "?", "?", path, store)
    limits = {
        "memory": kernel.memory,
        "cpus": kernel.cpus,
        "pids": kernel.pids_limit,
        "timeout": kernel.timeout,
        "limits": kernel.limits,
    }
    said = " ".join(f"{what}={limit}" for what, limit in limits.items() if limit is not None)
    return Kernelspec(
        name, display, language, image, digest, said, kernel.network, kernel.workspace, path, store
    )
