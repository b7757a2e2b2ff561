"""What it takes to run ``true`` in a container of the same root file system."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from cellblock_engine import Engine
from support import images

from . import users
from .peers import Docker, find
from .rounds import Contestant


def contestants(
    stack: ExitStack, directory: Path, image: str, docker: Docker | None
) -> list[Contestant]:
    """Return everything that can start a container here; the image is pulled beforehand."""
    engine = stack.enter_context(Engine.open(directory / "live"))
    engine.pull(image)
    # A store of its own, so that neither finds what the other has warmed.
    home = directory / "command"
    with Engine.open(home) as other:
        other.pull(image)
    found = [
        Contestant("engine.run, in process", lambda: engine.run(image, ["true"]).check()),
        Contestant("cellblock run, whole process", _command(_cellblock(home, image))),
        *users.contestants(stack, image),
    ]
    if docker is not None:
        # Pulled, not imported: pulls are measured later, and docker would find its layer there.
        docker("pull", image)
        argv = ("run", "--rm", "--network", "none", image, "true")
        found.append(Contestant("docker run", lambda: docker(*argv)))
    rootfs = directory / "bundle" / "rootfs"
    rootfs.mkdir(parents=True)
    subprocess.run(["tar", "-xpf", images.base_tar(), "-C", rootfs], check=True)
    if runc := find("runc"):
        found.append(Contestant("runc run", _runc(runc, rootfs.parent)))
    if bwrap := find("bwrap"):
        argv_bwrap = [bwrap, "--unshare-all", "--bind", str(rootfs), "/", "--proc", "/proc"]
        found.append(
            Contestant("bwrap --unshare-all", _command([*argv_bwrap, "--dev", "/dev", "true"]))
        )
    if kern := find("kern"):
        found.append(Contestant("kern box", _kern(kern, rootfs, directory / "kern")))
    return found


def _cellblock(home: Path, image: str) -> list[str]:
    program = Path(sys.executable).with_name("cellblock")
    return ["env", f"CELLBLOCK_HOME={home}", str(program), "run", "--rm", image, "true"]


def _command(argv: Sequence[str]) -> Callable[[], object]:
    return lambda: subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


def _kern(kern: str, rootfs: Path, home: Path) -> Callable[[], object]:
    """Run a throw-away box as kern's defaults have it, with all that it keeps below ``home``."""
    home.mkdir(mode=0o700)
    own = [f"XDG_{name}={home}" for name in ("CACHE_HOME", "CONFIG_HOME", "DATA_HOME")]
    own += [f"XDG_STATE_HOME={home}", f"XDG_RUNTIME_DIR={home}"]
    box = [kern, "box", "cb-bench", "--rootfs", str(rootfs), "--rm", "--quiet", "--", "true"]
    return _command(["env", *own, *box])


def _runc(runc: str, bundle: Path) -> Callable[[], object]:
    """Adapt runc's own example: no terminal, and ``true``."""
    subprocess.run([runc, "spec", "--bundle", bundle], check=True)
    path = bundle / "config.json"
    spec = json.loads(path.read_text())
    spec["process"]["terminal"] = False
    spec["process"]["args"] = ["true"]
    path.write_text(json.dumps(spec))
    state = bundle.parent / "runc"
    return _command([runc, "--root", str(state), "run", "--bundle", str(bundle), "cb-bench"])
