"""One kernel: its container, its gate, from the start to the end of both.

``python -m cellblock_kernel.gate -f CONNECTION_FILE [OPTIONS] -- COMMAND ...`` is a kernelspec's
argv. Signals are passed on to the kernel; the end of whoever started this ends it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from cellblock_engine import CellblockError

_FAILED = 125


def main(words: Sequence[str] | None = None) -> int:
    """Be the gate; return the kernel's exit status, 125 for what could not be done."""
    # Before much is loaded: an interrupt is for a cell, and there is none yet.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from .life import live  # noqa: PLC0415
    from .options import PROVISIONED, parse  # noqa: PLC0415
    from .reports import Report, Reporter  # noqa: PLC0415

    words = sys.argv[1:] if words is None else words
    reporter = Reporter.on_stdin() if PROVISIONED in words[:1] else Reporter(None)
    try:
        return live(parse(words), reporter)
    except (CellblockError, OSError, MemoryError) as error:
        reason = str(error) or "the kernel said more than its gate may hold, and was ended"
        reporter.send(Report(failure=reason))
        print(f"cellblock: {reason}", file=sys.stderr)
        return _FAILED


if __name__ == "__main__":
    sys.exit(main())
