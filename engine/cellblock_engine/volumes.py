"""What is attached in a container beside its image: folders of the host and file systems in memory.

Reads Docker's words for them (``-v``, ``--mount``, ``--tmpfs``) and says which host paths are not
shown to a container. It mounts nothing.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import InvalidInput, NotFound
from .limits import parse_bytes

DEFAULT_SHM_BYTES = 64 << 20
SMALLEST_SHM_BYTES = 4096
DEFAULT_TMPFS_MODE = 0o1777

_MOST_ATTACHED = 64  # each is a mount, and every clone travels as a descriptor
# The kernel's own trees, fresh in each container. /dev/shm is memory like any other.
_KERNEL_TREES = ("/proc", "/sys", "/dev")
_KERNEL_FILE_SYSTEMS = frozenset(
    "binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs mqueue nsfs proc "
    "pstore securityfs selinuxfs sysfs tracefs".split()
)
_SHM = "/dev/shm"  # noqa: S108
_BIND_KEYS = {"source": "source", "src": "source", "target": "target"} | dict.fromkeys(
    ("dst", "destination"), "target"
)


@dataclass(frozen=True)
class Bind:
    """A file or directory of the host, attached in the container at ``target``.

    What belongs to the caller outside belongs to the container's user inside, and the other way
    round; what belongs to anybody else is nobody's inside. Raises InvalidInput.
    """

    source: Path
    target: str
    writable: bool = False

    def __post_init__(self) -> None:
        """Refuse places that cannot be meant."""
        if "\0" in f"{self.source}":
            raise InvalidInput("a path to bind contains a NUL character")
        object.__setattr__(self, "target", _target(self.target))


@dataclass(frozen=True)
class Tmpfs:
    """A file system in memory, empty at each start; ``size_bytes`` None is half the memory.

    Raises InvalidInput.
    """

    target: str
    size_bytes: int | None = None
    mode: int = DEFAULT_TMPFS_MODE

    def __post_init__(self) -> None:
        """Refuse places and sizes that cannot be meant."""
        object.__setattr__(self, "target", _target(self.target))
        # tmpfs takes 0 for "no limit at all".
        if self.size_bytes is not None and self.size_bytes < 1:
            raise InvalidInput(f"tmpfs on {self.target}: its size is at least one byte")
        if not 0 <= self.mode <= 0o1777:
            raise InvalidInput(f"tmpfs on {self.target}: mode {self.mode:o} is not 0 to 1777")


def parse_volume(text: str) -> Bind:
    """Return the bind of ``-v SOURCE:TARGET[:ro|rw]``. Raises InvalidInput, NotFound."""
    source, colon, rest = text.partition(":")
    target, _, options = rest.partition(":")
    if not colon or not source or not target:
        raise InvalidInput(
            f"volume {text!r} is not valid: write -v /host/path:/container/path[:ro]"
        )
    if not source.startswith(("/", "./", "../", "~/")) and source not in (".", "..", "~"):
        raise InvalidInput(
            f"volume {text!r} names a volume, and there are none yet: write a host path, "
            f"./{source} for one below here"
        )
    writable = True
    for word in options.split(",") if options else ():
        if word not in ("ro", "rw"):
            raise InvalidInput(f"volume option {word!r} is not known: use ro or rw")
        writable = word == "rw"
    return Bind(existing(os.fspath(Path(source).expanduser())), target, writable)


def parse_mount(text: str) -> Bind | Tmpfs:
    """Return what ``--mount type=bind|tmpfs,KEY=VALUE`` means. Raises InvalidInput, NotFound."""
    given: dict[str, str] = {}
    for word in text.split(","):
        key, equals, value = word.partition("=")
        given[_BIND_KEYS.get(key.strip(), key.strip())] = value if equals else "true"
    kind = given.pop("type", "volume")
    readonly = _truth(given.pop("readonly", given.pop("ro", "false")), text)
    target = given.pop("target", "")
    if not target:
        raise InvalidInput(f"mount {text!r} has no target: write target=/container/path")
    if kind == "bind":
        source = given.pop("source", "")
        if not source:
            raise InvalidInput(f"mount {text!r} has no source: write source=/host/path")
        _refuse_rest(given, text)
        return Bind(existing(os.fspath(Path(source).expanduser())), target, not readonly)
    if kind != "tmpfs":
        raise InvalidInput(f"mount type {kind!r} is not known: use type=bind or type=tmpfs")
    if readonly:
        raise InvalidInput(f"mount {text!r}: a tmpfs that cannot be written is always empty")
    size, mode = given.pop("tmpfs-size", None), given.pop("tmpfs-mode", None)
    _refuse_rest(given, text)
    return _tmpfs(target, size, mode)


def parse_tmpfs(text: str) -> Tmpfs:
    """Return the file system of ``--tmpfs TARGET[:size=64m,mode=700]``. Raises InvalidInput."""
    target, _, options = text.partition(":")
    given: dict[str, str] = {}
    for word in options.split(",") if options else ():
        key, equals, value = word.partition("=")
        if equals and key in ("size", "mode"):
            given[key] = value
        elif word not in ("rw", "nosuid", "nodev", "noexec"):
            raise InvalidInput(
                f"tmpfs option {word!r} is not known: use size= and mode= "
                "(nosuid, nodev and noexec always hold)"
            )
    return _tmpfs(target, given.get("size"), given.get("mode"))


def existing(text: str) -> Path:
    """Return the host path, absolute and without links. Raises NotFound: nothing is made."""
    try:
        return Path(text).resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"cannot bind {text}: there is no such file or directory here") from None
    except (RuntimeError, OSError) as error:
        raise InvalidInput(f"cannot bind {text}: {error}") from error


def refused(source: Path, private: Iterable[Path]) -> str | None:
    """Return why a host path is not shown to a container, None if it can be.

    ``private`` are the engine's own directories; neither they nor what is in or around them are.
    """
    real = Path(os.path.realpath(source))
    if real == Path("/"):
        return "it is the whole machine: bind the folder that is needed"
    for tree in _KERNEL_TREES:
        if real.is_relative_to(tree) and not real.is_relative_to(_SHM):
            return f"{tree} is the kernel's own, and each container has one of its own"
    if kind := _kernel_file_system(real):
        return f"a file system of the kernel's own is there ({kind})"
    for own in private:
        real_own = Path(os.path.realpath(own))
        if real.is_relative_to(real_own) or real_own.is_relative_to(real):
            return f"cellblock's own files are there ({own}), of all images and containers"
    return None


def _kernel_file_system(path: Path) -> str | None:
    """Return the type of a file system that shows the kernel's insides, wherever it is mounted."""
    try:
        device = path.stat().st_dev
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind = after.split(" ")[0]
        if before.split(" ")[2:3] == [wanted] and kind in _KERNEL_FILE_SYSTEMS:
            return kind
    return None


def check_targets(attached: tuple[Bind | Tmpfs, ...]) -> None:
    """Raise InvalidInput where two are attached at one place, or too many."""
    if len(attached) > _MOST_ATTACHED:
        raise InvalidInput(f"{len(attached)} mounts are too many: at most {_MOST_ATTACHED}")
    targets = [each.target for each in attached]
    for target in targets:
        if targets.count(target) > 1:
            raise InvalidInput(f"two mounts have the target {target}: leave one out")


def _tmpfs(target: str, size: str | None, mode: str | None) -> Tmpfs:
    try:
        bits = DEFAULT_TMPFS_MODE if mode is None else int(mode, 8)
    except ValueError:
        raise InvalidInput(f"tmpfs mode {mode!r} is not octal: write 1777 or 700") from None
    return Tmpfs(target, None if size is None else parse_bytes(size, "tmpfs size"), bits)


def _target(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise InvalidInput(f"mount target {text!r} is not valid: give an absolute path")
    target = "/" + posixpath.normpath(text).lstrip("/")
    if target == "/":
        raise InvalidInput("mount target / is not valid: it is the image's; choose a folder in it")
    for tree in _KERNEL_TREES:
        # Below /dev is memory of the container's own, with a few devices in it.
        if target == tree or (target.startswith(tree + "/") and tree != "/dev"):
            raise InvalidInput(f"mount target {target} is not valid: {tree} is the kernel's own")
    return target


def _truth(text: str, whole: str) -> bool:
    if text not in ("true", "1", "false", "0"):
        raise InvalidInput(f"mount {whole!r}: readonly is true or false, not {text!r}")
    return text in ("true", "1")


def _refuse_rest(given: dict[str, str], text: str) -> None:
    for key in given:
        raise InvalidInput(f"mount {text!r}: {key!r} is not known for this type")
