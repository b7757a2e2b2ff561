"""Namespaces, and the ids in them: what a container is made of. namespaces(7)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import StoreError
from ..linux import idmaps
from ..linux.idmaps import Extent, IdMaps
from ..store import Store
from .answers import Answers
from .check import CANNOT_RUN, Check, tried
from .surroundings import Surroundings

_FULL = 65536
_APPARMOR = "kernel/apparmor_restrict_unprivileged_userns"
_UNCONFINED = "--security-opt seccomp=unconfined --security-opt apparmor=unconfined"
_NO_MASKS = f"{_UNCONFINED} --security-opt systempaths=unconfined"


@dataclass(frozen=True)
class Ids:
    """The ids of a store's containers, and why they cannot be had (``problem``).

    ``maps`` is None where root gives each a range of its own.
    """

    maps: IdMaps | None
    problem: str = ""

    @classmethod
    def of(cls, store: Store) -> Ids:
        """Return those of a store."""
        try:
            return cls(store.inside.maps())
        except StoreError as error:
            return cls(idmaps.single(), str(error))

    @property
    def are_single(self) -> bool:
        """Whether there is one id alone."""
        return self.maps is not None and self.maps.is_single


def all_rungs(answers: Answers, ids: Ids, around: Surroundings) -> Iterator[Check]:
    """Yield the rungs of namespaces and ids."""
    yield _user_namespaces(_user_namespaces_answer(answers), around)
    yield _ids(answers["ids"], ids)
    yield tried(
        "namespaces",
        answers["pid namespaces"],
        "processes, host name and IPC of its own",
        CANNOT_RUN,
        around.allow(
            "namespaces",
            _UNCONFINED,
            elsewhere="allow clone3(2) with CLONE_NEWPID, CLONE_NEWIPC and CLONE_NEWUTS: a filter "
            "of the surrounding container or service refuses it",
        ),
    )
    yield tried(
        "proc",
        answers["proc"],
        "/proc and /sys of its own",
        CANNOT_RUN,
        around.allow(
            "a fresh /proc",
            _NO_MASKS,
            elsewhere="take away what is mounted over files of /proc and /sys: the kernel gives "
            "fresh ones only where all of the present ones shows",
        ),
    )


def networks(answers: Answers) -> Iterator[Check]:
    """Yield the rungs of the networks there are."""
    yield tried(
        "network none",
        answers["network namespaces"],
        "a loopback of its own; --allow-host lets out to named hosts",
        "containers without a network; --network host is left",
        "allow network namespaces: sysctl user.max_net_namespaces, or a filter around",
    )
    yield Check("network host", "ok", "the host's interfaces, when --network host asks for them")


def _user_namespaces_answer(answers: Answers) -> str | None:
    answer = answers["user namespaces"]
    if answer is None and _sysctl(_APPARMOR) == "1" and answers["overlay"] and answers["proc"]:
        # Ubuntu, from 24.04: they are made, by a profile under which root inside may nothing.
        return "are made without capabilities, by AppArmor"
    return answer


def _user_namespaces(answer: str | None, around: Surroundings) -> Check:
    settings = (
        ("kernel/unprivileged_userns_clone", "0", "1"),
        (_APPARMOR, "1", "0"),
        ("user/max_user_namespaces", "0", "10000"),
    )
    remedies = [
        f"sysctl {name.replace('/', '.')}={wanted}"
        for name, refusing, wanted in settings
        if _sysctl(name) == refusing
    ]
    remedy = "; ".join(remedies) or around.allow(
        "user namespaces",
        _UNCONFINED,
        elsewhere="allow user namespaces: a filter or a limit of the surrounding container or "
        "service refuses them",
    )
    return tried("user namespaces", answer, "can be made", CANNOT_RUN, remedy)


def _ids(answer: str | None, ids: Ids) -> Check:
    if ids.problem:
        remedy = "give them back, name another store by CELLBLOCK_HOME, or use system reset"
        return Check("ids", "missing", ids.problem, CANNOT_RUN, remedy)
    if ids.maps is None:
        remedy = "map ids in the surrounding user namespace: it lacks those from 524288 up"
        return tried("ids", answer, f"{_FULL} of its own for each container", CANNOT_RUN, remedy)
    if ids.are_single:
        if answer is not None:
            remedy = "let user namespaces be made (see above)"
            return Check("ids", "missing", answer, CANNOT_RUN, remedy)
        return _single()
    if answer is not None:
        remedy = "make newuidmap and newgidmap set-uid root, or with cap_setuid and cap_setgid"
        return Check("ids", "missing", answer, CANNOT_RUN, remedy)
    return _subordinate(ids.maps)


def _single() -> Check:
    """Return the rung of a store of one id, with the reason why there are no more."""
    user, group, name = os.geteuid(), os.getegid(), _own_name()
    files = ("/etc/subuid", "/etc/subgid")
    absent = [name for name in ("newuidmap", "newgidmap") if idmaps.program(name) is None]
    without = [path for path in files if not idmaps.granted(path)]
    if absent:
        why, remedy = f"{' and '.join(absent)} not installed", "apt-get install uidmap"
    elif idmaps.is_barred():
        why = "no_new_privs is set, with which newuidmap gives none"
        remedy = "start without NoNewPrivileges (systemd) or with allowPrivilegeEscalation (pods)"
    elif name is None:
        why = f"user {user} has no name, by which subordinate ids are given"
        remedy = "run as a user of /etc/passwd"
    elif without:
        why = f"nothing for {name} in {' and '.join(without)}"
        remedy = f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}, as root"
    elif idmaps.is_barred():
        why = "newuidmap has no privilege below no_new_privs"
        remedy = (
            "start without that (systemd's NoNewPrivileges, Kubernetes' allowPrivilegeEscalation)"
        )
    else:
        why = "the store was made so, or store.ids says so"
        remedy = "another store, or system reset, which removes its images"
    lost = "users other than root are pretended: what they may not do is not enforced inside"
    found = f"a single id, {user}:{group}: {why}"
    return Check("ids", "partial", found, lost, f"{remedy}; a store keeps the ids it was made with")


def _subordinate(maps: IdMaps) -> Check:
    counts = [sum(extent.size for extent in extents) for extents in maps]
    found = f"{min(counts)} for all containers, by newuidmap: {_told(maps.uids)}"
    if min(counts) >= _FULL:
        return Check("ids", "ok", found)
    lost = f"images and users with ids from {min(counts)} up"
    return Check("ids", "partial", found, lost, f"give {_FULL} in /etc/subuid and /etc/subgid")


def _told(extents: tuple[Extent, ...]) -> str:
    return ", ".join(
        str(first) if count == 1 else f"{first}-{first + count - 1}"
        for _, first, count in extents[:4]
    )


def _own_name() -> str | None:
    import pwd  # noqa: PLC0415 - for one line of advice

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return None


def _sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text(encoding="ascii").strip()
    except OSError:
        return None
