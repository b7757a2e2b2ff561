"""From a request and an image to what a container is: its config, its files, its start.

Pure planning: nothing is made here, and what is decided here the monitor does not decide again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import enforcement
from .errors import Conflict, InvalidInput
from .ids import id_maps
from .image import Image
from .layout import Layout
from .linux.cgroups import Limits
from .oci.config import PROVENANCE_LABEL, ImageConfig
from .oci.digest import Digest
from .privileges import held_capabilities
from .request import HOST_IMAGE, Channel, ExecRequest, RunRequest
from .runtime.figures import processor_count
from .runtime.spec import (
    PROXY_PORT,
    BindSpec,
    FileSpec,
    OverlaySpec,
    ProcessSpec,
    StandIns,
    StartSpec,
    TmpfsSpec,
)
from .signals import parse_signal
from .store import Store
from .store.containers import ContainerConfig, upper
from .volumes import Bind, existing, refused

_KERNEL_TREES = ("/proc", "/sys", "/dev")
_HOST_RESOLVER = Path("/etc/resolv.conf")
_HOST_HOSTS = Path("/etc/hosts")
# Where there is one id, apt cannot become the user _apt to fetch, and gives up.
_APT_SETTINGS = FileSpec(
    "/etc/apt/apt.conf.d/99cellblock", 'APT::Sandbox::User "root";\n', optional=True
)
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
    image = store.images.resolve(name)
    return Base(image, image.config, (Tree("/", store.layers.chain(image.layers)),))


def find_trees(layout: Layout, store: Store, config: ContainerConfig) -> tuple[Tree, ...]:
    """Return the trees that a container was made of. Raises Conflict, StoreError, OSError."""
    if config.image_id is None:
        trees = find_base(layout, store, HOST_IMAGE).trees
    else:
        layers = tuple(Digest.parse(layer) for layer in config.layers)
        trees = (Tree("/", store.layers.chain(layers)),)
    if config.trees != tuple(tree.target for tree in trees):
        raise Conflict(
            f"container {config.name} cannot start again: this machine's Python has moved since "
            "it was made; remove it and make another"
        )
    return trees


def configure(
    request: RunRequest, base: Base, identifier: str, name: str, replaced: tuple[str, ...]
) -> ContainerConfig:
    """Return the container's config: the request's words over the image's. Raises InvalidInput.

    ``replaced`` are its limits that something weaker stands in for (:mod:`.enforcement`).
    """
    config = base.config
    env = _by_name(config.env)
    env.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    hostname = request.hostname or identifier[:12]
    env["HOSTNAME"] = hostname
    if request.allow_hosts:
        env.update(_proxy_env(request.env))
    env.update(request.env)
    return ContainerConfig(
        id=identifier,
        name=name,
        image=request.image,
        image_id=str(base.image.id) if base.image else None,
        manifest=str(base.image.manifest) if base.image else None,
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
        labels={**_for_containers(config.labels), **request.labels},
        created_at=time.time(),
        removal=request.removal,
        binds=request.binds,
        tmpfs=request.tmpfs,
        read_only=request.read_only,
        shm_bytes=request.shm_bytes,
        ulimits=request.ulimits,
        capabilities=held_capabilities(request.cap_add, request.cap_drop),
        trees=tuple(tree.target for tree in base.trees),
        interactive=request.interactive,
        storage_bytes=request.storage_bytes,
        allow_hosts=request.allow_hosts,
        memory_swap_bytes=request.limits.memory_swap_bytes,
        cpuset_cpus=request.limits.cpuset_cpus,
        cpu_shares=request.limits.cpu_shares,
        memory_reservation_bytes=request.limits.memory_reservation_bytes,
        blkio_weight=request.limits.blkio_weight,
        device_rates=request.limits.device_rates,
        replaced_limits=replaced,
    )


def _for_containers(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in labels.items() if not name.startswith(PROVENANCE_LABEL)}


def found_binds(layout: Layout, binds: tuple[Bind, ...]) -> tuple[Bind, ...]:
    """Return the binds with their sources as they are, without links.

    Raises NotFound for a source that is missing, InvalidInput for one that is not shown.
    """
    found = []
    for bind in binds:
        if reason := refused(bind.source, (layout.home, layout.run.parent)):
            raise InvalidInput(f"cannot bind {bind.source}: {reason}")
        found.append(Bind(existing(os.fspath(bind.source)), bind.target, bind.writable))
    return tuple(found)


def refuse_moved(layout: Layout, config: ContainerConfig) -> None:
    """Raise InvalidInput, NotFound, if a container's binds lead elsewhere than when it was made.

    Whoever can write above a source, another container say, can put a link to any place there.
    """
    for made, now in zip(config.binds, found_binds(layout, config.binds), strict=True):
        if made.source != now.source:
            raise InvalidInput(
                f"cannot bind {made.source} again: it leads to {now.source} now, and did not when "
                f"container {config.name} was made: see who put the link there, or make it anew"
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


def mount_places(config: ContainerConfig) -> frozenset[bytes]:
    """Return where something is attached in the container: what is there was made for that."""
    places = (
        *_KERNEL_TREES,
        *(f"/etc/{name}" for name in network_files(config)),
        _APT_SETTINGS.target,
        *(bind.target for bind in config.binds),
        *(tmpfs.target for tmpfs in config.tmpfs),
    )
    return frozenset(os.fsencode(place.strip("/")) for place in places)


def start_spec(
    layout: Layout,
    config: ContainerConfig,
    trees: tuple[Tree, ...],
    directory: Path,
    channels: tuple[Channel, ...],
    *,
    foreground: bool,
    again: bool,
) -> StartSpec:
    """Return the order to the monitor; ``again`` says that the container is to stay if it fails."""
    files = tuple(FileSpec(f"/etc/{name}", text) for name, text in network_files(config).items())
    binds = tuple(
        BindSpec(os.fspath(bind.source), bind.target, bind.writable) for bind in config.binds
    )
    maps = id_maps(layout)
    if maps is not None and maps.is_single:
        files = (*files, _APT_SETTINGS)
    return StartSpec(
        id=config.id,
        directory=os.fspath(directory),
        name_link=os.fspath(layout.names / config.name),
        socket=os.fspath(layout.monitor_socket(config.id)),
        id_ranges=os.fspath(layout.id_ranges) if maps is None else None,
        id_maps=maps,
        hostname=config.hostname,
        own_network=config.network == "none",
        allow_hosts=config.allow_hosts,
        overlays=tuple(
            OverlaySpec(
                tree.target,
                tuple(os.fspath(lower) for lower in tree.lowers),
                os.fspath(upper(directory, number)),
            )
            for number, tree in enumerate(trees)
        ),
        files=files,
        binds=binds,
        tmpfs=tuple(TmpfsSpec(each.target, each.size_bytes, each.mode) for each in config.tmpfs),
        shm_bytes=config.shm_bytes,
        read_only=config.read_only,
        storage_bytes=config.storage_bytes,
        limits=enforcement.kernel_limits(config.limits).without(config.replaced_limits),
        timeout_s=config.timeout_s,
        stop_signal=config.stop_signal,
        foreground=foreground,
        removal=config.removal,
        again=again,
        process=ProcessSpec(
            config.argv,
            _env(config),
            config.workdir,
            config.user,
            channels,
            config.capabilities,
            _ulimits(config),
            _stand_ins(config),
        ),
    )


def exec_spec(config: ContainerConfig, request: ExecRequest) -> ProcessSpec:
    """Return a further command: the request's words over the container's."""
    return ProcessSpec(
        request.argv,
        merged(_env(config), request.env),
        request.workdir or config.workdir,
        config.user if request.user is None else request.user,
        request.channels,
        config.capabilities,
        _ulimits(config),
        _stand_ins(config),
    )


def merged(entries: tuple[str, ...], env: Mapping[str, str]) -> tuple[str, ...]:
    """Return ``NAME=VALUE`` entries with ``env`` over them."""
    return tuple(f"{key}={value}" for key, value in (_by_name(entries) | dict(env)).items())


def _by_name(entries: tuple[str, ...]) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in entries)


def _env(config: ContainerConfig) -> tuple[str, ...]:
    """Return its environment; Python 3.13 looks nowhere else for a part of the processors."""
    count = processor_count(Limits(cpus=config.cpus, cpuset_cpus=config.cpuset_cpus))
    if count is None:
        return config.env
    return merged((f"PYTHON_CPU_COUNT={count}",), _by_name(config.env))


def _proxy_env(given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that lead programs to the proxy, but those that the caller has set.

    Some programs read them in capitals only, some in small letters only; small ones go first.
    """
    proxy = f"http://127.0.0.1:{PROXY_PORT}"
    wanted = {"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "NO_PROXY": "localhost,127.0.0.1"}
    named = {name.upper() for name in given}
    return {
        each: value
        for name, value in wanted.items()
        if name not in named
        for each in (name, name.lower())
    }


def _stand_ins(config: ContainerConfig) -> StandIns:
    return enforcement.stand_ins(config.limits, config.replaced_limits, config.id)


def _ulimits(config: ContainerConfig) -> tuple[tuple[str, int, int], ...]:
    return tuple((each.name, each.soft, each.hard) for each in config.ulimits)


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
