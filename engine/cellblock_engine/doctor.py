"""What this machine offers to this user, rung by rung, and what killed processes left in a store.

Each rung is tried, not guessed from versions (:mod:`.linux.probes`); what it finds missing comes
with what is lost and how to get it. It changes nothing but what is stale: the entries, groups and
sockets of processes that are gone, which any start or pull would sweep as well. It does not read
blobs or layers, so it does not find damage.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import LimitNotEnforceable, Unsupported
from .layout import Layout
from .linux import cgroups, probes
from .private import make_runtime_directory
from .runtime import delegation, state, sweep
from .store import Store
from .store.formats import make_home
from .store.staging import Staging

Status = Literal["ok", "partial", "missing", "swept"]

_PATIENCE_S = 60.0
_ENDING_S = 3.0  # for processes of a killed monitor, which the kernel is still ending
_LOOK_AGAIN_S = 0.02
_OLDEST_KERNEL = (5, 19)
_MANY_LAYERS_KERNEL = (6, 8)
_TRIAL_LIMITS: Mapping[str, cgroups.Limits] = {
    "memory": cgroups.Limits(memory_bytes=64 << 20),
    "cpus": cgroups.Limits(cpus=0.5),
    "pids": cgroups.Limits(pids=64),
}
_FLAGS = {"memory": "--memory", "cpus": "--cpus", "pids": "--pids-limit"}
_AS_ROOT = "run as root"


@dataclass(frozen=True)
class Check:
    """One rung: what was found and, where it is not all there, what is lost and how to get it."""

    name: str
    status: Status
    found: str
    lost: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All rungs, and what was stale and is swept now, an item each."""

    checks: tuple[Check, ...]
    swept: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Whether containers can run here at all."""
        vital = {"kernel", "user namespaces", "namespaces", "overlay", "seccomp"}
        return not any(c.name in vital and c.status == "missing" for c in self.checks)


def diagnose(layout: Layout, store: Store) -> Diagnosis:
    """Try every rung and sweep what is stale. Raises OSError where the store cannot be made."""
    swept = tuple(_swept(layout, store))
    answers = _answers(layout)
    checks = (
        _kernel(os.uname().release),
        _user_namespaces(answers["user namespaces"]),
        _subordinate_ids(answers["subordinate ids"], root=os.geteuid() == 0),
        _vital(
            "namespaces",
            answers["pid namespaces"],
            "processes, host name and IPC of its own",
            "containers cannot run",
            "allow clone3(2) with CLONE_NEWPID, CLONE_NEWIPC and CLONE_NEWUTS: a filter of the "
            "surrounding container or service refuses it",
        ),
        _vital(
            "overlay",
            answers["overlay"],
            "with userxattr, on the store's file system",
            "containers cannot run",
            "load the overlay module, or put the store on ext4, xfs or btrfs with CELLBLOCK_HOME: "
            "another overlay or a network file system cannot be written through",
        ),
        _idmapped_mounts(answers["idmapped mounts"], root=os.geteuid() == 0),
        *_limits(),
        _vital(
            "seccomp",
            answers["seccomp"],
            "the filter is in force for every command",
            "containers cannot run",
            "use a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64",
        ),
        _landlock(answers["landlock"], root=os.geteuid() == 0),
        _network_none(answers["network namespaces"]),
        Check("network host", "ok", "the host's interfaces, when --network host asks for them"),
    )
    return Diagnosis(checks, swept)


def _answers(layout: Layout) -> dict[str, str | None]:
    """Return what the kernel answered to each attempt: None is yes."""
    root = os.geteuid() == 0
    make_runtime_directory(layout.run)
    make_home(layout)
    with Staging(layout.staging).directory() as directory:
        parent = os.fspath(Path(__file__).parents[1])
        program = f"import sys; sys.path.append({parent!r}); import runpy; runpy.run_module("
        program += f"{probes.__name__!r}, run_name='__main__', alter_sys=False)"
        done = subprocess.run(
            [
                sys.executable,
                *("-I", "-S", "-c", program),
                os.fspath(directory),
                os.fspath(layout.id_ranges) if root else "",
            ],
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_PATIENCE_S,
        )
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise Unsupported(f"this machine could not be examined: {last}")
    answers: dict[str, str | None] = json.loads(done.stdout)
    return answers


def _kernel(release: str) -> Check:
    numbers = release.partition("-")[0].split(".")[:2]
    version = tuple(int(word) for word in numbers if word.isdigit())
    if version < _OLDEST_KERNEL:
        return Check(
            "kernel",
            "missing",
            release,
            "idmapped mounts below an overlay, and so images",
            "use Linux 5.19 or newer",
        )
    if version < _MANY_LAYERS_KERNEL:
        return Check(
            "kernel",
            "partial",
            release,
            "images of more than about 100 layers",
            "use Linux 6.8 or newer",
        )
    return Check("kernel", "ok", release)


def _vital(name: str, answer: str | None, found: str, lost: str, remedy: str) -> Check:
    if answer is None:
        return Check(name, "ok", found)
    return Check(name, "missing", answer, lost, remedy)


def _user_namespaces(answer: str | None) -> Check:
    settings = (
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user/max_user_namespaces", "0", "10000"),
    )
    remedies = [
        f"sysctl {name.replace('/', '.')}={wanted}"
        for name, refusing, wanted in settings
        if _sysctl(name) == refusing
    ]
    remedy = "; ".join(remedies) or (
        "allow user namespaces: a filter or a limit of the surrounding container or service "
        "refuses them"
    )
    return _vital("user namespaces", answer, "can be made", "containers cannot run", remedy)


def _subordinate_ids(answer: str | None, *, root: bool) -> Check:
    lost = "users other than root inside, and pulled images"
    if not root:
        return Check("subordinate ids", "missing", "a single id of your own", lost, _AS_ROOT)
    if answer is None:
        return Check("subordinate ids", "ok", "65536 of its own for each container")
    remedy = "map ids in the surrounding user namespace: it lacks those from 524288 up"
    return Check("subordinate ids", "missing", answer, lost, remedy)


def _idmapped_mounts(answer: str | None, *, root: bool) -> Check:
    if answer is None:
        return Check("idmapped mounts", "ok", "on the store's file system")
    remedy = "put the store on ext4, xfs, btrfs or tmpfs with CELLBLOCK_HOME" if root else _AS_ROOT
    return Check("idmapped mounts", "missing", answer, "pulled images", remedy)


def _limits() -> Iterator[Check]:
    """Make a group with each limit where those of containers would be, and remove it."""
    found = cgroups.discover(os.getpid())
    try:
        with ExitStack() as given:
            tried = found
            if isinstance(found, cgroups.Delegable):
                tried = given.enter_context(delegation.trial(found))
            problems = dict(_problems(tried))
    except (delegation.Undelegated, LimitNotEnforceable, OSError) as error:
        problems = dict.fromkeys(_TRIAL_LIMITS, str(error))
    for name, problem in problems.items():
        title = f"limit {_FLAGS[name]}"
        if problem is None:
            yield Check(title, "ok", f"is enforced, by {found.version}")
        else:
            remedy = _AS_ROOT if os.geteuid() else "mount control groups' controllers, writable"
            yield Check(title, "missing", problem, f"{_FLAGS[name]} is refused", remedy)


def _problems(controllers: cgroups.Controllers) -> Iterator[tuple[str, str | None]]:
    """Return what becomes of each limit, None if it is enforced."""
    missing = controllers.missing()
    for name, limits in _TRIAL_LIMITS.items():
        problem = missing.get(name)
        if problem is None:
            try:
                group = controllers.create(f"cellblock-doctor-{os.getpid()}-{name}", limits)
                group.remove()
            except (LimitNotEnforceable, OSError) as error:
                problem = str(error)
        yield name, problem


def _landlock(answer: str | None, *, root: bool) -> Check:
    if answer is None:
        return Check("landlock", "ok", "commands execute the container's own files only")
    lost = (
        "nothing: root inside is nobody outside"
        if root
        else "a container may change mode and times of the Python that started it"
    )
    status: Status = "partial" if root else "missing"
    return Check("landlock", status, answer, lost, "boot with lsm=landlock,... on Linux 5.19")


def _network_none(answer: str | None) -> Check:
    return _vital(
        "network none",
        answer,
        "a loopback of its own",
        "containers without a network; --network host is left",
        "allow network namespaces: sysctl user.max_net_namespaces, or a filter around",
    )


def _sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text(encoding="ascii").strip()
    except OSError:
        return None


def _swept(layout: Layout, store: Store) -> Iterator[str]:
    """Sweep; yield what was stale, in words."""
    for name in store.sweep():
        yield f"unfinished work {name}"
    for identifier in _names(layout.containers):
        yield from _settled(layout, identifier)
    for name in _names(layout.run):
        path = layout.run / name
        if _is_orphan(layout, path):
            path.unlink(missing_ok=True)
            yield f"socket {name} of a container that is gone"
    before = set(_names(layout.names))
    sweep.sweep(os.fspath(layout.containers), os.fspath(layout.names), os.fspath(layout.run))
    yield from (f"name {name} of no container" for name in before - set(_names(layout.names)))


def _settled(layout: Layout, identifier: str) -> Iterator[str]:
    directory = layout.containers / identifier
    if state.is_live(os.fspath(directory)):
        return
    groups = [path for path in state.noted_cgroups(os.fspath(directory)) if Path(path).is_dir()]
    path = layout.monitor_socket(identifier)
    had_socket = path.exists()
    deadline = time.monotonic() + _ENDING_S
    with suppress(OSError):  # what cannot be removed stays, and is found again
        while not sweep.settle(os.fspath(directory), os.fspath(path)):
            if time.monotonic() > deadline:
                break
            time.sleep(_LOOK_AGAIN_S)
    short = identifier[:12]
    yield from (f"cgroup {group} of {short}" for group in groups if not Path(group).is_dir())
    if had_socket and not path.exists():
        yield f"socket of {short}"
    if not directory.exists():
        yield f"remains of container {short}"


def _is_orphan(layout: Layout, path: Path) -> bool:
    """Tell a monitor's socket without a container, on which nobody listens."""
    prefix = path.name.removesuffix(".sock")
    if path.name == prefix or len(prefix) != 12 or not path.is_socket():
        return False
    if any(name.startswith(prefix) for name in _names(layout.containers)):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _names(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return []
