"""What the cell of a kernel that has ended is told, by how it ended."""

from __future__ import annotations

import pytest

from cellblock_engine import Exit, Killed, OutOfMemory, PidsExceeded, TimedOut
from cellblock_kernel.gate.certificate import Certificate

MEMORY = OutOfMemory(limit_bytes=256 << 20, peak_bytes=255 << 20, own=True)
AROUND = OutOfMemory(limit_bytes=None, peak_bytes=255 << 20, own=False)
PIDS = PidsExceeded(limit=64, refused=3)
OF_MEMORY = (
    "out of memory: the limit of 256 MiB was reached (peak 255 MiB); give it more with --memory of "
    "kernel install"
)
OF_PIDS = (
    "pids limit: beyond the limit of 64, starting a process or thread was refused 3 times; raise "
    "it with --pids-limit of kernel install"
)


@pytest.mark.parametrize(
    ("end", "name", "reason"),
    [
        (Exit(137, MEMORY), "OutOfMemory", OF_MEMORY),
        (Exit(137, AROUND), "OutOfMemory", str(AROUND) + " of kernel install"),
        (
            Exit(137, TimedOut(limit_s=90)),
            "TimedOut",
            "timed out: the limit of 90 s passed; give it more with --timeout of kernel install",
        ),
        (
            Exit(137, Killed(reason="by SIGKILL, as asked")),
            "Killed",
            "killed: by SIGKILL, as asked",
        ),
        (Exit(3, None), "KernelEnded", "exit status 3"),
        (Exit(0, None), "KernelEnded", "exit status 0"),
        (Exit(139, None), "KernelEnded", "by SIGSEGV (exit status 139)"),
        (Exit(255, None), "KernelEnded", "exit status 255"),
        (Exit(1, PIDS), "PidsExceeded", f"exit status 1; before that, {OF_PIDS}"),
        # Of a child, perhaps an hour ago: no reason for this.
        (
            Exit(139, MEMORY),
            "KernelEnded",
            f"by SIGSEGV (exit status 139); before that, {OF_MEMORY}",
        ),
    ],
)
def test_it_names_what_ended_the_kernel_and_what_to_change(end, name, reason):
    assert Certificate.of(end) == Certificate(name, f"the kernel ended: {reason}")


def test_it_is_an_error_of_the_cell_in_one_line():
    message = Certificate.of(Exit(137, MEMORY)).message({"msg_id": "m", "session": "s"})
    line = f"the kernel ended: {OF_MEMORY}"
    assert (message.kind, message.parent_id) == ("error", "m")
    assert message.content == {"ename": "OutOfMemory", "evalue": line, "traceback": [line]}
