"""What keeps a container's commands from the kernel and from the machine's files."""

from __future__ import annotations

from collections.abc import Iterator

from .answers import Answers
from .check import CANNOT_RUN, Check, tried


def all_rungs(answers: Answers, *, single: bool, privileged: bool) -> Iterator[Check]:
    """Yield the rungs of seccomp and Landlock.

    ``single``: containers have one id; ``privileged``: root inside is nobody outside.
    """
    yield tried(
        "seccomp",
        answers["seccomp"],
        "the filter is in force for every command",
        CANNOT_RUN,
        "use a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64",
    )
    yield _notification(answers["seccomp notification"], single=single)
    yield _landlock(answers["landlock"], privileged=privileged)


def _notification(answer: str | None, *, single: bool) -> Check:
    if answer is None:
        found = "owners can be written down" if single else "can be had; used with a single id only"
        return Check("seccomp notification", "ok", found)
    return Check(
        "seccomp notification",
        "missing" if single else "partial",
        answer,
        "owners of files are not written down: images belong to root alone"
        if single
        else "nothing: it is used with a single id only",
        "use Linux 5.5 or newer",
    )


def _landlock(answer: str | None, *, privileged: bool) -> Check:
    if answer is None:
        return Check("landlock", "ok", "commands execute the container's own files only")
    lost = (
        "nothing: root inside is nobody outside"
        if privileged
        else "a container may change mode and times of the Python that started it"
    )
    remedy = "boot with lsm=landlock,... on Linux 5.19"
    return Check("landlock", "partial" if privileged else "missing", answer, lost, remedy)
