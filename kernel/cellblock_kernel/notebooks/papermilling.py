"""papermill, in a process of its own for one notebook: ``python -P -m`` this module.

What to do comes as one line of JSON on stdin (:class:`Order`); how it ended goes as one to stdout
(:class:`Report`). The end of stdin is the end of whoever asked: then it ends too, and with it the
kernel, and removes the folder that both worked in.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MODULE = "cellblock_kernel.notebooks.papermilling"
SOURCE, TARGET = "source.ipynb", "target.ipynb"
_START_S = 120
_LONGEST = 10_000


@dataclass(frozen=True)
class Order:
    """A notebook to be run, from :data:`SOURCE` to :data:`TARGET` of a temporary folder.

    ``kernel`` is the name of a kernelspec.
    """

    folder: str
    kernel: str
    language: str
    parameters: Mapping[str, Any]
    shows_progress: bool


@dataclass(frozen=True)
class Report:
    """How it ended: well, by the exception of a cell, or by a failure around the cells."""

    ename: str | None = None
    evalue: str = ""
    cell: int | None = None
    failure: str | None = None


def main() -> int:
    """Carry out the order on stdin and report; return the exit status."""
    answer = os.dup(1)
    os.dup2(2, 1)  # nothing else that is printed is a report
    order = Order(**json.loads(sys.stdin.buffer.readline()))
    ended = threading.Event()
    threading.Thread(target=_end_with_stdin, args=(order.folder, ended), daemon=True).start()
    try:
        report = _carried_out(order)
    except KeyboardInterrupt:
        report = Report(failure="it was interrupted")
    ended.set()
    with open(answer, "w") as stream:
        stream.write(json.dumps(asdict(report)) + "\n")
    return 0


def _carried_out(order: Order) -> Report:
    from papermill.exceptions import PapermillExecutionError  # noqa: PLC0415 - as below
    from papermill.execute import execute_notebook  # noqa: PLC0415 - an optional dependency

    try:
        execute_notebook(  # type: ignore[no-untyped-call]
            f"{order.folder}/{SOURCE}",
            f"{order.folder}/{TARGET}",
            parameters=dict(order.parameters),
            kernel_name=order.kernel,
            language=order.language,
            progress_bar=order.shows_progress,
            start_timeout=_START_S,
        )
    except PapermillExecutionError as error:
        ename, evalue = str(error.ename), str(error.evalue)
        return Report(ename[:_LONGEST], evalue[:_LONGEST], error.exec_count)
    except Exception as error:  # noqa: BLE001 - of papermill, nbclient, nbformat: it is reported
        return Report(failure=f"{type(error).__name__}: {error}"[:_LONGEST])
    return Report()


def _end_with_stdin(folder: str, ended: threading.Event) -> None:
    while os.read(0, 1 << 10):
        pass
    if ended.is_set():
        return
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
