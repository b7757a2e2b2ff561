"""An environment's plan becomes an image: its layers are made, then documents and the name."""

from __future__ import annotations

import os
import platform as machine
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata

from ..errors import InvalidInput
from ..explanation import Explanation
from ..image import Image
from ..imagerequest import FreezeRequest
from ..layout import Layout
from ..log import Log
from ..oci.composition import compose
from ..oci.config import HistoryEntry, ImageConfig
from ..oci.digest import Digest
from ..oci.manifest import OCI_LAYER, Descriptor
from ..oci.platform import Platform
from ..oci.reference import Reference
from ..store import Store, tar
from ..store.copying import Adopted, Source
from ..store.epoch import clamped
from ..units import format_bytes
from .contents import entries
from .environment import ask
from .plan import Layer, Plan, plan

_log = Log(__name__)
_MOST_SHOWN = 20
_SHOWN_DEPTH = 4
_TOLD_EVERY_BYTES = 4 * 2**20


@dataclass(frozen=True)
class FrozenLayer:
    """A layer of a frozen environment: ``interpreter``, ``packages`` or ``project``."""

    name: str
    summary: str
    diffid: Digest
    size_bytes: int


@dataclass(frozen=True)
class Frozen(Image):
    """The image that was made of an environment.

    ``missing`` are shared libraries that were not found here, each with a program that needs it;
    ``left_out`` says what else is not in the image.
    """

    frozen_layers: tuple[FrozenLayer, ...]
    missing: Mapping[str, str]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class FreezeEvent:
    """How far a freeze is, in bytes of files; ``layer`` is made now, and empty at the end."""

    reference: str
    layer: str
    current_bytes: int
    total_bytes: int


def freeze(
    store: Store,
    layout: Layout,
    reference: Reference,
    request: FreezeRequest,
    progress: Callable[[FreezeEvent], None] | None,
) -> Frozen:
    """Add the image that the environment makes; return it.

    Raises InvalidInput for a Python that cannot be asked or a project that is none, Unsupported
    for a prefix that has more than a Python in it, Conflict for files that change meanwhile,
    StoreFull, StoreError; then there is no image.
    """
    planned = _plan(layout, request)
    total_bytes = sum(layer.size_bytes for layer in planned.layers)
    report = _Report(str(reference), total_bytes, progress)
    with store.referencing():
        store.blobs.check_room(total_bytes)
        made = [_layer(store, layer, report, request.epoch_s) for layer in planned.layers]
        created = (
            datetime.now(UTC)
            if request.epoch_s is None
            else datetime.fromtimestamp(request.epoch_s, UTC)
        )
        documents = compose(
            Platform.host(), _config(planned), [(each, step) for each, step, _ in made], created
        )
        digest = Digest.of(documents.manifest)
        store.blobs.keep(Digest.of(documents.config), documents.config)
        store.blobs.keep(digest, documents.manifest)
        image = store.images.add(reference, digest)
    report.end()
    _log.info("froze Python %s: %s", planned.environment.executable, image.id)
    frozen = tuple(layer for _, _, layer in made)
    return Frozen(
        **vars(image), frozen_layers=frozen, missing=planned.missing, left_out=planned.left_out
    )


def explain(layout: Layout, request: FreezeRequest) -> Explanation:
    """Return what :func:`freeze` would do, without making anything. Raises as it does."""
    planned = _plan(layout, request)
    sections = {
        f"layer {layer.name}": (
            layer.summary,
            f"{len(layer.nodes)} entries, {format_bytes(layer.size_bytes)}",
            *_folders(layer),
        )
        for layer in planned.layers
    }
    config = _config(planned)
    sections["run with"] = (*config.env, f"in {config.working_dir}", f"command {config.cmd[0]}")
    sections["libraries not found"] = tuple(
        f"{name}, for {path}" for name, path in sorted(planned.missing.items())
    )
    sections["left out"] = planned.left_out
    return Explanation(sections)


def _plan(layout: Layout, request: FreezeRequest) -> Plan:
    project = None if request.project is None else str(request.project)
    python = request.python or sys.executable
    if not python:
        raise InvalidInput("this Python does not know its own executable: name one")
    return plan(ask(python), project, (str(layout.home), str(layout.run)))


class _Report:
    """Tells a listener of each few megabytes that pass."""

    def __init__(
        self, reference: str, total_bytes: int, progress: Callable[[FreezeEvent], None] | None
    ) -> None:
        self._reference, self._total_bytes, self._progress = reference, total_bytes, progress
        self._done_bytes = self._told_bytes = 0

    def watched(
        self, name: str, described: Iterable[tar.Entry | Source]
    ) -> Iterator[tar.Entry | Source | Adopted]:
        """Yield the same entries and contents of a layer."""
        for each in described:
            if isinstance(each, Source):
                self._done_bytes += each.size
                if self._done_bytes - self._told_bytes >= _TOLD_EVERY_BYTES:
                    self._tell(name)
            yield each

    def end(self) -> None:
        """Tell that the image is there."""
        self._done_bytes = self._total_bytes
        self._tell("")

    def _tell(self, layer: str) -> None:
        self._told_bytes = self._done_bytes
        if self._progress is not None:
            self._progress(FreezeEvent(self._reference, layer, self._done_bytes, self._total_bytes))


def _layer(
    store: Store, layer: Layer, report: _Report, epoch_s: int | None
) -> tuple[Descriptor, HistoryEntry, FrozenLayer]:
    described = report.watched(layer.name, entries(layer.nodes))
    with ExitStack() as stack:
        if epoch_s is not None:
            root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, root)
            described = clamped(described, epoch_s, root)
        copy = stack.enter_context(store.layers.copying())
        copy.fill(described)
        diffid, size_bytes = store.layers.keep(copy)
    step = HistoryEntry(
        created=None,
        created_by=f"cellblock freeze ({layer.name})",
        author="",
        comment=layer.summary,
        empty_layer=False,
    )
    frozen = FrozenLayer(layer.name, layer.summary, diffid, layer.size_bytes)
    return Descriptor(OCI_LAYER, diffid, size_bytes), step, frozen


def _config(planned: Plan) -> ImageConfig:
    of = planned.environment
    labels = {
        "cellblock.freeze.engine": _version(),
        "cellblock.freeze.python": of.version,
        "cellblock.freeze.executable": of.executable,
        "cellblock.freeze.platform": machine.platform(),
    }
    return ImageConfig(
        cmd=("python3",), env=planned.env, working_dir=planned.working_dir, labels=labels
    )


def _folders(layer: Layer) -> tuple[str, ...]:
    """Return the folders that most of a layer is in, the largest first."""
    sizes: Counter[str] = Counter()
    for node in layer.nodes:
        if node.size:
            sizes["/".join(node.path.split("/")[: _SHOWN_DEPTH + 1])] += node.size
    return tuple(f"{format_bytes(size)}  {path}" for path, size in sizes.most_common(_MOST_SHOWN))


def _version() -> str:
    try:
        return metadata.version("cellblock")
    except metadata.PackageNotFoundError:
        return "of unknown version"
