"""Which process a number means, also after the number has been given to another."""

from __future__ import annotations

_AFTER_NAME_STATE, _AFTER_NAME_START = 0, 19


def identity(pid: int) -> str | None:
    """Return what no other process has had or will have; None if none is alive there.

    A pid with its start time is unique within one boot of the machine (proc_pid_stat(5)); a
    zombie has ended.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name before it is the process's own choice, parentheses and all.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[_AFTER_NAME_STATE] in (b"Z", b"X"):
        return None
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return f"{boot}/{pid}/{fields[_AFTER_NAME_START].decode()}"


def is_alive(noted: str) -> bool:
    """Tell whether the process whose :func:`identity` was noted is alive; none by what is none."""
    _, _, rest = noted.partition("/")
    pid = rest.partition("/")[0]
    return pid.isascii() and pid.isdigit() and identity(int(pid)) == noted
