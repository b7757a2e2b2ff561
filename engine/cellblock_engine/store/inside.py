"""Work on the files of an ordinary user's store, by a process that is root of their owners.

Trees in such a store belong to the ids of the user's containers, or name owners that only root
inside may see past. So whoever reads, writes or removes them is a process of its own in a user
namespace with these ids (:mod:`.insider`): it does one job and ends. Root needs none.

A job is a function of this package, called with what can be pickled; both ends are the same code
and the same user, and nothing that a container or a registry made is ever unpickled. What has a way
inside, and is sent there, has it behind it: a store's files are then reached as they are.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar, cast

from ..errors import StoreError
from ..linux.idmaps import IdMaps
from ..log import heard_from, repeat
from .children import start_child
from .frames import ERROR, PIECE, RESULT, TOLD, read_frame, write_frame
from .trees import remove_tree

_PROGRAM = Path(__file__).with_name("insider.py")
_END_S = 5.0
_P = ParamSpec("_P")
_T = TypeVar("_T")


def nowhere() -> None:
    """Return no ids: whoever asks has them."""


class Inside:
    """The way to the files of a store whose containers have the ids that ``maps`` returns.

    None is where this process reaches them itself. Thread-safe.
    """

    def __init__(self, maps: Callable[[], IdMaps | None]) -> None:
        self.maps = maps

    def __reduce__(self) -> tuple[type[Inside], tuple[Callable[[], None]]]:
        """Return what it is for whom it is sent to."""
        return Inside, (nowhere,)

    @property
    def is_here(self) -> bool:
        """Whether this process itself reaches all files as it should. Raises StoreError."""
        return self.maps() is None

    def run(self, job: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what ``job`` returns in there; interrupted, it is ended. Raises what it does."""
        return self._run((), job, args, kwargs)

    def run_on(self, source: int, job: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """As :meth:`run`; the open file ``source`` has the same number in there."""
        return self._run((source,), job, args, kwargs)

    def pieces(
        self, job: Callable[_P, Iterator[bytes]], *args: _P.args, **kwargs: _P.kwargs
    ) -> Iterator[bytes]:
        """Yield what ``job`` yields in there. Raises what it does."""
        if self.is_here:
            yield from job(*args, **kwargs)
            return
        with self._process((), (job, args, kwargs)) as answers:
            for kind, content in answers:
                if kind != PIECE:
                    _told(kind, content)
                    return
                yield content

    def remove(self, path: Path | str) -> None:
        """Remove a tree, from in there if need be; nothing there is no error. Raises OSError."""
        try:
            remove_tree(path)
        except PermissionError:
            if self.is_here:
                raise
            self.run(remove_tree, os.fspath(path))

    def _run(
        self,
        fds: tuple[int, ...],
        job: Callable[..., _T],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> _T:
        if self.is_here:
            return job(*args, **kwargs)
        with self._process(fds, (job, args, kwargs)) as answers:
            return cast(_T, _told(*next(answers)))

    @contextmanager
    def _process(
        self, fds: tuple[int, ...], call: tuple[object, ...]
    ) -> Iterator[Iterator[tuple[bytes, bytes]]]:
        """Start a call; give its answers. It is ended with the block."""
        import pickle  # noqa: PLC0415 - starts do without

        request = pickle.dumps((self.maps(), heard_from(), *call))
        process = start_child(_PROGRAM, fds=fds)
        try:
            yield _answers(process, request)
        finally:
            process.kill()
            process.wait(_END_S)
            for pipe in _pipes(process):
                with suppress(BrokenPipeError):  # of what was not yet written
                    pipe.close()


def _answers(process: subprocess.Popen[bytes], request: bytes) -> Iterator[tuple[bytes, bytes]]:
    questions, answers, said = _pipes(process)
    with suppress(BrokenPipeError):
        write_frame(questions, RESULT, request)
    while (frame := read_frame(answers)) is not None:
        if frame[0] == TOLD:
            repeat(_loaded(frame[1]))
        else:
            yield frame
    process.kill()
    status = process.wait(_END_S)
    last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    raise StoreError(f"the process that works on the store's files {how}: {last or 'try again'}")


def _told(kind: bytes, content: bytes) -> object:
    answer = _loaded(content)
    if kind == ERROR:
        raise answer
    return answer


def _loaded(content: bytes) -> Any:  # noqa: ANN401 - what was dumped there
    import pickle  # noqa: PLC0415 - as above

    return pickle.loads(content)  # noqa: S301 - of our own process, see the module


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], ...]:
    found = process.stdin, process.stdout, process.stderr
    return tuple(pipe for pipe in found if pipe is not None)
