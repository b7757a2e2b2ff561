"""lock and run-notebook: a notebook tied to an image, and run in exactly that."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cellblock_engine import Conflict, ImageNotFound, InvalidInput, RunRequest

from ..tables import counted
from .declaration import Argument, Call, Verb
from .kernel import NETWORK, WORKSPACE, preparing, surroundings
from .limits import CPUS, LIMITS_MODE, MEMORY, PIDS_LIMIT, TIMEOUT, notes
from .outcome import Acknowledged

if TYPE_CHECKING:
    from cellblock_engine import TransferEvent
    from cellblock_kernel import CheckedLock, KernelOptions, Lock

_MOST_SHOWN = 50
_SUFFIX = ".ipynb"


def lock(call: Call) -> Acknowledged:
    """Lock a notebook to an image, or say what has become of its lock."""
    from cellblock_kernel import check_lock, lock_notebook  # noqa: PLC0415 - jupyter_client, now

    given = call.arguments
    if given.check:
        if given.image is not None or given.kernel is not None:
            raise InvalidInput("--check reads what is locked: leave out --image and --kernel")
        return _checked(given.notebook, check_lock(call.engine, Path(given.notebook)))
    with ExitStack() as shown:
        locked = lock_notebook(
            call.engine,
            Path(given.notebook),
            image=given.image,
            kernel=given.kernel,
            progress=preparing(call, shown),
        )
    packages = counted(sum(map(len, locked.packages.values())), "package")
    return Acknowledged((f"{given.notebook}: {_shown(locked)}, {packages}",))


def run_notebook(call: Call) -> Acknowledged:
    """Run a locked notebook in its image; the line is where its outputs are."""
    from cellblock_kernel import run_notebook  # noqa: PLC0415 - as above

    given, options = call.arguments, _options(call)
    notebook = Path(given.notebook)
    output = _beside(notebook) if given.output is None else Path(given.output)
    with ExitStack() as shown:
        written = run_notebook(
            call.engine,
            notebook,
            output,
            parameters={name: _value(text) for name, text in given.parameter},
            options=options,
            progress=_pulling(call, shown),
            shows_progress=sys.stderr is not None and sys.stderr.isatty(),
        )
    return Acknowledged((str(written),), notes=notes(call, options.wanted))


def _checked(notebook: str, checked: CheckedLock) -> Acknowledged:
    """Return what there is to say; it is no error if the image is here and its name means it."""
    found, name = checked.lock, checked.lock.image.familiar
    pinned = f"{notebook} is locked to {_shown(found)}"
    lines = tuple(map(str, checked.differences[:_MOST_SHOWN]))
    if len(checked.differences) > _MOST_SHOWN:
        lines += (f"and {counted(len(checked.differences) - _MOST_SHOWN, 'difference')} more",)
    if checked.has_moved:
        here = "is" if checked.image is not None else "is not"
        problem = f"{name} is another image now, and the locked one {here} in the store"
        return Acknowledged(lines, (Conflict(f"{pinned}: {problem}"),))
    if checked.image is None:
        return Acknowledged(lines, (ImageNotFound(f"{pinned}: it is not in the store"),))
    if lines:
        problem = "its list of packages is not that of this image: lock it again"
        return Acknowledged(lines, (Conflict(f"{pinned}: {problem}"),))
    if checked.is_repacked:
        lines = ("its manifest is another since, as after a push: lock again for others to pull",)
    return Acknowledged((f"{pinned}, and it is in the store", *lines))


def _shown(locked: Lock) -> str:
    made = " with ipykernel" if locked.base is not None else ""
    return f"{locked.image.familiar}{made} ({locked.pin.id.short})"


def _options(call: Call) -> KernelOptions:
    """Return what the words let the notebook have. Raises InvalidInput."""
    options = surroundings(call)
    allowed = tuple(call.arguments.allow_host)
    RunRequest("", network=options.network, allow_hosts=allowed)  # it checks them
    return replace(options, allow_host=allowed)


def _beside(notebook: Path) -> Path:
    stem = notebook.name.removesuffix(_SUFFIX)
    return notebook.with_name(f"{stem}.out{_SUFFIX}")


def _value(text: str) -> bool | int | float | str | None:
    """Return what papermill's own -p makes of a word."""
    if text in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[text]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _pulling(call: Call, shown: ExitStack) -> Callable[[TransferEvent], None]:
    """Return what opens a display, which ``shown`` closes, with the first event of a pull."""
    displays: list[Callable[[TransferEvent], None]] = []

    def show(event: TransferEvent) -> None:
        if not displays:
            displays.append(shown.enter_context(call.progress()))
        displays[0](event)

    return show


_NOTEBOOK = Argument(("notebook",), "an .ipynb file", metavar="NOTEBOOK")

VERBS = (
    Verb(
        "lock",
        "Write into a notebook which image it is to be run in",
        (
            Argument(
                ("--image",),
                "reference or id (that of the notebook's own kernel)",
                metavar="IMAGE",
                subject="image",
            ),
            Argument(("--kernel",), "the image's kernel to run it with", metavar="NAME"),
            Argument(
                ("--check",), "tell whether that image is here, and what its name means now", "flag"
            ),
            _NOTEBOOK,
        ),
        lock,
    ),
    Verb(
        "run-notebook",
        "Run a locked notebook in exactly its image",
        (
            Argument(
                ("-o", "--output"), "where it goes with its outputs (NAME.out.ipynb)", metavar="OUT"
            ),
            Argument(
                ("-p", "--parameter"),
                "set what its cell tagged 'parameters' sets",
                "pairs",
                ("NAME", "VALUE"),
            ),
            MEMORY,
            CPUS,
            PIDS_LIMIT,
            LIMITS_MODE,
            TIMEOUT,
            NETWORK,
            Argument(
                ("--allow-host",),
                "a host to reach by https all the same: pypi.org, *.example.org",
                "each",
                "HOST[:PORT]",
            ),
            WORKSPACE,
            Argument(("--untrusted",), "keep outputs that cannot act: no scripts", "flag"),
            _NOTEBOOK,
        ),
        run_notebook,
    ),
)
