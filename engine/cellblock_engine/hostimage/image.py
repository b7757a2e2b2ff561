"""The host image as the runtime takes it: a skeleton, the trees over it, and how it is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..layout import Layout
from ..oci.config import ImageConfig
from .interpreter import Interpreter, places
from .skeleton import ROOT, skeleton

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class HostTree:
    """A directory of the machine that appears copy-on-write at ``target``.

    ``lowers`` are the overlay's layers, bottom first: the directory itself and, where something
    in it must not be seen, a layer of whiteouts over it.
    """

    source: Path
    target: str
    mask: Path | None

    @property
    def lowers(self) -> tuple[Path, ...]:
        """The layers of its overlay, bottom first."""
        return (self.source,) if self.mask is None else (self.source, self.mask)


@dataclass(frozen=True)
class HostImage:
    """``skeleton`` is the lower of ``/``; ``overlays`` go over it, none inside another.

    ``python`` is the interpreter's path inside, the same as outside.
    """

    skeleton: Path
    overlays: tuple[HostTree, ...]
    python: str
    config: ImageConfig


def host_image(
    layout: Layout, *, interpreter: Interpreter | None = None, root: Path = Path("/")
) -> HostImage:
    """Return the host image for this interpreter, built if need be.

    Cheap when nothing changed (about half a millisecond). ``root`` is the machine's root
    directory; another one serves to try this out. Nothing of the environment goes in. Raises
    Unsupported for a Python that cannot be shown without showing too much, StoreFull, OSError.
    """
    interpreter = interpreter or Interpreter.current()
    found = places(interpreter, root, (layout.home, layout.run))
    built = skeleton(layout, root, found)
    base = str(root).rstrip("/")
    masks = {number: built / f"mask-{number}" for number in range(len(found.trees))}
    overlays = tuple(
        HostTree(Path(base + tree), tree, mask if (mask := masks[number]).is_dir() else None)
        for number, tree in enumerate(found.trees)
    )
    env = (f"PATH={interpreter.bin}:{_SYSTEM_PATH}", "LANG=C.UTF-8")
    config = ImageConfig(cmd=(interpreter.executable,), env=env, working_dir="/root")
    return HostImage(built / ROOT, overlays, interpreter.executable, config)
