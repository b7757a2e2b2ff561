"""A locked notebook, run by papermill in exactly its image.

The notebook says which image that is. What the container may do is the caller's word alone:
nothing in a notebook sets mounts, network or limits.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

from cellblock_engine import Engine, InvalidInput, Limits, Progress, Unsupported

from ..errors import NotebookFailed
from ..gate.options import KernelOptions
from ..kernelspecs.installation import ImageKernel, find_kernels
from ..kernelspecs.spec import document
from ..outputs.text import one_line
from .document import Notebook, Place
from .lock import Lock
from .locking import locked_image
from .papermilling import MODULE, SOURCE, TARGET, Order, Report

_SPEC = "cellblock-locked"
_MOST_REPORT = 1 << 20
_LONGEST = 300
_GRACE_S = 15.0


def run_notebook(
    engine: Engine,
    notebook: Path,
    output: Path,
    *,
    parameters: Mapping[str, object],
    options: KernelOptions,
    progress: Progress,
    shows_progress: bool = False,
) -> Path:
    """Run a locked notebook in its image, and write what comes out to ``output``; return that.

    ``options`` say what the container may do; their image does not count. ``parameters`` take the
    place of those in the cell that is tagged so. ``shows_progress`` lets papermill draw on stderr.
    Raises InvalidInput for a notebook that is not locked, ImageNotFound, Unsupported without
    papermill, NotebookFailed, and what a run raises. ``output`` is written whole, also after a
    failure, and is then as far as it went.
    """
    if find_spec("papermill") is None:
        raise Unsupported("run-notebook needs papermill: pip install papermill")
    source = Notebook.read(notebook)
    lock = Lock.parse(source.metadata, str(notebook))
    _check(output)
    kernel = _kernel(engine, lock, str(notebook), progress)
    with (
        Place.of(output) as place,  # before the container can move it
        tempfile.TemporaryDirectory(prefix="cellblock-", ignore_cleanup_errors=True) as folder,
    ):
        order = Order(
            folder=folder,
            kernel=_SPEC,
            language=kernel.offer.language,
            parameters=parameters,
            shows_progress=shows_progress,
        )
        _write_kernelspec(engine, Path(folder), kernel, options)
        (Path(folder) / SOURCE).write_bytes(source.text.encode())  # what the lock was read from
        try:
            report = _papermill(engine, order, source.path.parent)
        finally:
            made = Path(folder) / TARGET
            if made.exists():
                place.write(_result(made, notebook, output))
        if report != Report():
            see = f"; see {output}" if made.exists() else ""
            raise NotebookFailed(f"{notebook}: {_reason(report)}{see}")
    return output


def _reason(report: Report) -> str:
    if report.ename is None:
        return one_line(report.failure or "", _LONGEST)
    where = "a cell" if report.cell is None else f"cell [{report.cell}]"
    said = f"{report.ename}: {report.evalue}" if report.evalue else report.ename
    return f"{where} failed: {one_line(said, _LONGEST)}"


def _check(output: Path) -> None:
    """Raise InvalidInput for a place that no notebook can be written to."""
    if output.exists() and not output.is_file():
        raise InvalidInput(f"cannot write {output}: it is no ordinary file")
    if not os.access(Path(os.path.realpath(output)).parent, os.W_OK | os.X_OK):
        raise InvalidInput(f"cannot write {output}: its folder is not there, or not yours to write")


def _kernel(engine: Engine, lock: Lock, notebook: str, progress: Progress) -> ImageKernel:
    """Return the locked kernel of the locked image. Raises InvalidInput, ImageNotFound."""
    image = locked_image(engine, lock, notebook, progress)
    kernel, *_ = find_kernels(engine, image, lock.image.familiar, Limits(), lock.kernel)
    if not kernel.is_ready:
        raise InvalidInput(
            f"the image {lock.image.familiar} ({image.id.short}) that {notebook} is locked to has "
            "no ipykernel: lock it anew, which gives it that"
        )
    return kernel


def _write_kernelspec(
    engine: Engine, folder: Path, kernel: ImageKernel, options: KernelOptions
) -> None:
    assert kernel.image is not None
    spec = folder / "kernels" / _SPEC
    spec.mkdir(parents=True)
    content = document(
        replace(options, image=str(kernel.image.id), env=(*kernel.offer.env, *options.env)),
        kernel.offer,
        display_name=_SPEC,
        image=str(kernel.image.id),
        digest=str(kernel.image.id),
        store=os.fspath(engine.home),
    )
    (spec / "kernel.json").write_text(json.dumps(content))


def _papermill(engine: Engine, order: Order, cwd: Path) -> Report:
    """Return how papermill ended. An interrupt ends it, and is raised when it has ended."""
    runtime = Path(order.folder) / "runtime"
    runtime.mkdir(0o700)
    found = [order.folder, *filter(None, [os.environ.get("JUPYTER_PATH")])]
    env = {
        **os.environ,
        "CELLBLOCK_HOME": os.fspath(engine.home),
        "JUPYTER_PATH": os.pathsep.join(found),
        "JUPYTER_RUNTIME_DIR": os.fspath(runtime),
    }
    # -P: it starts in the notebook's folder, where a papermill.py may lie
    words = [sys.executable, "-P", "-m", MODULE]
    said = Path(order.folder) / "stderr"
    with (
        said.open("wb") as unseen,
        subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if order.shows_progress else unseen,  # kernels warn of this and that
            cwd=cwd,
            env=env,
            start_new_session=True,  # an interrupt is passed on, once
        ) as process,
        _ended(process),
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
            process.stdin.flush()
        line = process.stdout.read(_MOST_REPORT)
    try:
        return Report(**json.loads(line))
    except (ValueError, TypeError):
        *_, last = ["no word", *said.read_text(errors="replace")[-_LONGEST:].strip().splitlines()]
        return Report(failure=f"papermill ended with status {process.returncode}: {last}")


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """See a process end, softly at first, whatever happens meanwhile."""
    try:
        yield
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        raise
    finally:
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _result(made: Path, notebook: Path, output: Path) -> bytes:
    """Return what papermill has made, with the paths that the user gave."""
    result = Notebook.read(made)
    said = result.metadata.get("papermill")
    paths = {"input_path": os.fspath(notebook), "output_path": os.fspath(output)}
    return result.with_metadata("papermill", {**(said if isinstance(said, dict) else {}), **paths})
