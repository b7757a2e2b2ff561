"""From a request and an image to what a container is: its config, its files, its start.

Pure planning: nothing is made here, and what is decided here the monitor does not decide again.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from .errors import InvalidInput, Unsupported
from .image import Image
from .layout import Layout
from .linux.cgroups import Limits as KernelLimits
from .oci.config import ImageConfig
from .request import HOST_IMAGE, ExecRequest, RunRequest
from .runtime.spec import BindSpec, FileSpec, OverlaySpec, ProcessSpec, StartSpec
from .signals import parse_signal
from .store import Store
from .store.containers import ContainerConfig, upper

_HOST_RESOLVER = Path("/etc/resolv.conf")
_HOST_HOSTS = Path("/etc/hosts")
_LOCALHOST = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


@dataclass(frozen=True)
class Tree:
    """A copy-on-write tree of an image: ``lowers`` bottom first, to be mounted at ``target``."""

    target: str
    lowers: tuple[Path, ...]


@dataclass(frozen=True)
class Base:
    """An image as the runtime needs it; ``image`` is None for the host image."""

    image: Image | None
    config: ImageConfig
    trees: tuple[Tree, ...]


def find_base(layout: Layout, store: Store, name: str) -> Base:
    """Return what ``name`` stands for. Raises ImageNotFound, InvalidReference, OSError."""
    if name == HOST_IMAGE:
        from .hostimage import host_image  # noqa: PLC0415 - other images do without

        host = host_image(layout)
        trees = (
            Tree("/", (host.skeleton,)),
            *(Tree(tree.target, tree.lowers) for tree in host.overlays),
        )
        return Base(None, host.config, trees)
    if os.geteuid() != 0:
        raise Unsupported(
            f"image {name!r} cannot run as user {os.geteuid()} yet: pulled images need root; the "
            "image 'host' works for every user"
        )
    image = store.images.resolve(name)
    return Base(image, image.config, (Tree("/", store.layers.chain(image.layers)),))


def configure(request: RunRequest, base: Base, identifier: str, name: str) -> ContainerConfig:
    """Return the container's config: the request's words over the image's. Raises InvalidInput."""
    config = base.config
    env = dict(entry.partition("=")[::2] for entry in config.env)
    env.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    hostname = request.hostname or identifier[:12]
    env["HOSTNAME"] = hostname
    env.update(request.env)
    return ContainerConfig(
        id=identifier,
        name=name,
        image=request.image,
        image_id=str(base.image.id) if base.image else None,
        layers=tuple(str(layer) for layer in base.image.layers) if base.image else (),
        argv=_argv(request, config),
        env=tuple(f"{key}={value}" for key, value in env.items()),
        workdir=request.workdir or config.working_dir or "/",
        user=config.user if request.user is None else request.user,
        hostname=hostname,
        network=request.network,
        memory_bytes=request.limits.memory_bytes,
        cpus=request.limits.cpus,
        pids=request.limits.pids,
        timeout_s=request.timeout_s,
        stop_signal=parse_signal(config.stop_signal or "TERM"),
        labels={**config.labels, **request.labels},
        created_at=time.time(),
        remove=request.remove,
    )


def network_files(config: ContainerConfig) -> dict[str, str]:
    """Return the files below /etc that say who and where the container is, by name."""
    own_line = f"127.0.0.1\t{config.hostname}\n"
    if config.network == "host":
        return {
            "hostname": config.hostname + "\n",
            "hosts": _text(_HOST_HOSTS) or _LOCALHOST + own_line,
            "resolv.conf": _text(_HOST_RESOLVER),
        }
    return {
        "hostname": config.hostname + "\n",
        "hosts": _LOCALHOST + own_line,
        "resolv.conf": "# this container has no network\n",
    }


def start_spec(
    layout: Layout,
    config: ContainerConfig,
    base: Base,
    directory: Path,
    request: RunRequest,
    *,
    foreground: bool,
) -> StartSpec:
    """Return the order to the monitor."""
    files = tuple(FileSpec(f"/etc/{name}", text) for name, text in network_files(config).items())
    binds = tuple(
        BindSpec(os.fspath(bind.source), bind.target, bind.writable) for bind in request.binds
    )
    return StartSpec(
        id=config.id,
        directory=os.fspath(directory),
        name_link=os.fspath(layout.names / config.name),
        socket=os.fspath(layout.monitor_socket(config.id)),
        id_ranges=os.fspath(layout.id_ranges) if os.geteuid() == 0 else None,
        hostname=config.hostname,
        own_network=config.network == "none",
        overlays=tuple(
            OverlaySpec(
                tree.target,
                tuple(os.fspath(lower) for lower in tree.lowers),
                os.fspath(upper(directory, number)),
            )
            for number, tree in enumerate(base.trees)
        ),
        files=files,
        binds=binds,
        limits=KernelLimits(config.memory_bytes, config.cpus, config.pids),
        timeout_s=config.timeout_s,
        stop_signal=config.stop_signal,
        foreground=foreground,
        remove=config.remove,
        process=ProcessSpec(config.argv, config.env, config.workdir, config.user, request.channels),
    )


def exec_spec(config: ContainerConfig, request: ExecRequest) -> ProcessSpec:
    """Return a further command: the request's words over the container's."""
    env = dict(entry.partition("=")[::2] for entry in config.env)
    env.update(request.env)
    return ProcessSpec(
        request.argv,
        tuple(f"{key}={value}" for key, value in env.items()),
        request.workdir or config.workdir,
        config.user if request.user is None else request.user,
        request.channels,
    )


def _argv(request: RunRequest, config: ImageConfig) -> tuple[str, ...]:
    """Combine entrypoint and command as Docker does: a new entrypoint drops the image's command."""
    if request.entrypoint is None:
        argv = (*config.entrypoint, *(request.argv or config.cmd))
    else:
        argv = (*((request.entrypoint,) if request.entrypoint else ()), *request.argv)
    if not argv or not argv[0]:
        raise InvalidInput(f"image {request.image!r} names no command: give one after the image")
    return argv


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""
