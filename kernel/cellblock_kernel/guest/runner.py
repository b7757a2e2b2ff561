"""Run notebook cells inside a container and send what they show as frames.

One file of the standard library only, for any Python from 3.8 on. For a cell in a container of
its own (:func:`run`) the engine binds it read-only and starts it as a script; where a container
runs already, its text is sent ahead of the cells, which share a namespace (:func:`serve`). It is
told its cells on descriptor 3 and answers on descriptor 4. Descriptors 5 and 6 become the
process's standard output and error, for subprocesses and C code: pipes that the host itself
reads, so that what they carry can be kept in order with the frames. It is no kernel: it does
nothing between cells.

A frame is two big-endian 32-bit lengths, a JSON object and a payload::

    in    {"kind": "codec"}                                    payload: the text of codec.py
          {"kind": "variable", "name": ...}                    payload: as the codec has it
          {"kind": "cell", "name": FILE, "number": N, "out": [NAME, ...]}   payload: the source
          {"kind": "answer" | "end" | "unasked", "id": N}      payload: what was typed
    out   {"kind": "hello", "protocol": 1, "python": "3.12.1"}
          {"kind": "stream", "name": "stdout" | "stderr"}      payload: the text
          {"kind": "display" | "result", "metadata": {...},
           "display_id": ..., "update": bool,               only of displays that have one
           "parts": [{"type": MIME, "size": N, "binary": bool}]}   payload: the parts
          {"kind": "input", "id": N, "secret": bool}           payload: the prompt; awaits an answer
          {"kind": "clear", "wait": bool}                      the outputs so far go away
          {"kind": "error", "ename": ..., "evalue": ...}       payload: the traceback
          {"kind": "variable", "name": ..., "size": N}         payload: the next bytes of N
          {"kind": "refused", "name": ..., "reason": ...}      a variable that cannot travel
          {"kind": "end", "number": N, "status": N}            cell N has ended; of served ones

Text is UTF-8. Whoever reads frames must not trust them: the cell can write to descriptor 4 too.
"""

# ruff: noqa: ANN401 -- what a cell displays can be anything

from __future__ import annotations
import __future__

import _ast
import atexit
import builtins
import codecs
import collections
import errno
import faulthandler
import fcntl
import importlib
import importlib.machinery
import io
import json
import os
import signal
import struct
import sys
import termios
import threading
import time
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PROTOCOL = 1
SOURCE_FD, FRAMES_FD = 3, 4
RAW_FDS = {5: 1, 6: 2}
CELL = "<cell"  # how the names of cells begin, in tracebacks
LENGTHS = struct.Struct("!II")
MAX_PAYLOAD = 60 << 20  # the host refuses frames above 64 MiB
MAX_HEADER = 48 << 10  # and headers above 64 KiB
MAX_EVALUE = 4096
MAX_PROMPT = 4096
MAX_ID = 200
TEXT_CHUNK = 1 << 15  # characters gathered before a frame leaves
TEXT_FRAME = 1 << 20  # characters in one frame at most
FLUSH_S = 0.05
PATIENCE_S, HURRY_S = 0.02, 1.0
BURST, BURST_PER_S = 100.0, 200.0  # lines that leave at once; beyond, they are gathered
INTERRUPTED = 130

REPRESENTATIONS = (
    ("text/html", "_repr_html_"),
    ("text/markdown", "_repr_markdown_"),
    ("image/svg+xml", "_repr_svg_"),
    ("image/png", "_repr_png_"),
    ("image/jpeg", "_repr_jpeg_"),
    ("application/pdf", "_repr_pdf_"),
    ("text/latex", "_repr_latex_"),
    ("application/json", "_repr_json_"),
    ("application/javascript", "_repr_javascript_"),
)
STARTS_A_PROCESS = frozenset(("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"))
AWAIT: int = _ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
IS_COROUTINE = 0x80  # inspect.CO_COROUTINE
FUTURES = sum({getattr(__future__, name).compiler_flag for name in __future__.all_feature_names})


def pack(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """Return the bytes of one frame."""
    head = json.dumps(header).encode("ascii")
    return LENGTHS.pack(len(head), len(payload)) + head + payload


def encoded(text: str) -> bytes:
    """Return UTF-8, with lone surrogates written out as a terminal would show them."""
    return text.encode("utf-8", "backslashreplace")


def unread_bytes(fd: int) -> int:
    """Return how much a pipe holds (ioctl_pipe(2)); nothing for what is no pipe."""
    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
    except OSError:
        return 0


HERE = pack.__code__.co_filename


class Channel:
    """The framed way out: all threads, all kinds of output, one order.

    A few lines leave at once, so that they survive a crash right behind them; a flood is
    gathered for a moment. A forked child, or a cell that closed the descriptor, is left with
    the raw descriptors (``open`` is False).
    """

    def __init__(self, fd: int) -> None:
        self.open = True
        self._fd = fd
        self._lock = threading.RLock()
        self._frames: collections.deque[bytes] = collections.deque()
        self._leaving: tuple[bytes, list[int]] = (b"", [])
        self._draining = False
        self._name = ""
        self._parts: list[str] = []
        self._size = 0
        self._credit, self._counted_at = BURST, time.monotonic()
        self._hurried_until = 0.0
        self._flusher: threading.Thread | None = None
        self._awake = self._finished = False
        self._wake, self._stop = threading.Event(), threading.Event()

    def write(self, name: str, text: str) -> None:
        """Take text of a stream; it leaves within ``FLUSH_S``."""
        with self._lock:
            if name != self._name:
                self._seal()
                self._name = name
            self._parts.append(text)
            self._size += len(text)
            if (
                self._size >= TEXT_CHUNK
                or self._finished
                or (text[-1:] == "\n" and self._has_credit())
            ):
                self.flush()
            elif not self._awake:
                self._flush_soon()

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Send a frame behind the text that was written before it."""
        with self._lock:
            self._seal()
            self._frames.append(pack(header, payload))
            self._drain()

    def flush(self) -> None:
        """Send the text gathered so far."""
        with self._lock:
            self._seal()
            self._drain()

    def settle(self) -> None:
        """Send on where an interrupt struck behind a write; called outside of all writes."""
        with self._lock:
            self._draining = False
            self.flush()

    def _has_credit(self) -> bool:
        now = time.monotonic()
        earned = (now - self._counted_at) * BURST_PER_S
        self._credit, self._counted_at = min(BURST, self._credit + earned), now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    def _seal(self) -> None:
        if not self._parts:
            return
        parts, self._parts, self._size = self._parts, [], 0
        text = "".join(parts)
        header = {"kind": "stream", "name": self._name}
        for start in range(0, len(text), TEXT_FRAME):
            self._frames.append(pack(header, encoded(text[start : start + TEXT_FRAME])))

    def _drain(self) -> None:
        if self._draining:  # a signal handler that prints, inside our own write
            return
        self._draining = True
        try:
            if self._frames:
                self._let_pass(1, 2)
            while self.open:
                data, counts = self._leaving
                offset = sum(counts)
                if offset < len(data):
                    # One C call writes and notes the count, and signal handlers run before or
                    # after it: whatever they raise, no byte is lost or sent twice.
                    view = memoryview(data)[offset : offset + 65536]
                    counts.extend(map(os.write, (self._fd,), (view,)))
                elif self._frames:
                    self._leaving = (self._frames.popleft(), [])
                else:
                    return
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.EPIPE):
                raise  # of a signal handler: TimeoutError is an OSError
            self.open = False
        finally:
            self._draining = False

    def _let_pass(self, *fds: int) -> None:
        """Wait a little until the host has read these pipes: it shows in the order of its reads.

        While it is too slow for that, or a child floods them, order matters less than speed.
        """
        deadline = time.monotonic() + PATIENCE_S
        if deadline < self._hurried_until:
            return
        while any(map(unread_bytes, fds)):
            if time.monotonic() >= deadline:
                self._hurried_until = deadline + HURRY_S
                return
            time.sleep(0.0002)

    def _flush_soon(self) -> None:
        self._awake = True
        self._wake.set()
        if self._flusher is None:
            self._flusher = threading.Thread(
                target=self._flush_loop, name="cellblock-flush", daemon=True
            )
            try:
                self._flusher.start()
            except RuntimeError:  # the pids limit, or the interpreter's end
                self._flusher, self._awake = None, False
                self.flush()

    def _flush_loop(self) -> None:
        while self._wake.wait() and not self._stop.wait(FLUSH_S):
            self._wake.clear()
            self._awake = False
            self.flush()

    def before_fork(self) -> None:
        """Leave no thread of ours and no text behind: Python warns of forks among threads."""
        self.stop()
        self._let_pass(self._fd)
        self._lock.acquire()

    def stop(self) -> None:
        """End the thread and send everything."""
        flusher = self._flusher
        if flusher is not None and flusher is not threading.current_thread():
            self._stop.set()
            self._wake.set()
            flusher.join(1)
            deadline = time.monotonic() + PATIENCE_S
            # Joined is not yet gone, and gone is what counts when Python counts threads.
            while os.path.exists(f"/proc/self/task/{flusher.native_id}"):  # noqa: PTH110
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.0002)
            self._flusher, self._awake = None, False
            self._stop.clear()
            self._wake.clear()
        self.flush()

    def finish(self) -> None:
        """Send everything, and from now on everything at once."""
        self._finished = True
        self.stop()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Leave the frames to the parent."""
        self._lock = threading.RLock()
        if self.open:
            self.open = False
            os.close(self._fd)

    def audit(self, event: str, _arguments: object) -> None:
        """Keep prints ahead of the output of a process that they announce."""
        if event in STARTS_A_PROCESS:
            self.flush()
            self._let_pass(self._fd)


class Stream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of the cell."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, channel: Channel, name: str, fd: int) -> None:
        super().__init__()
        self.name = f"<{name}>"
        self.mode = "w"
        self._channel, self._stream, self._fd = channel, name, fd
        self._raw: io.TextIOBase | None = None
        self.buffer = Bytes(self)

    def write(self, text: str) -> int:
        """Write text and return its length."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        if not text:
            return 0
        if self._channel.open:
            self._channel.write(self._stream, text)
        else:
            self._fallback().write(text)
        return len(text)

    def flush(self) -> None:
        """Send what was written."""
        if self._channel.open:
            self._channel.flush()
        else:
            self._fallback().flush()

    def fileno(self) -> int:
        """Return the raw descriptor, for subprocesses."""
        return self._fd

    def writable(self) -> bool:
        """Say yes."""
        return True

    def reconfigure(self, **_options: object) -> None:
        """Accept what a text file of the standard library accepts; nothing changes."""
        self.flush()

    def _fallback(self) -> io.TextIOBase:
        if self._raw is None:  # line-buffered: lines of several processes stay whole
            self._raw = open(  # noqa: SIM115 -- open as long as the process
                self._fd, "w", 1, encoding=self.encoding, errors=self.errors, closefd=False
            )
        return self._raw


class Bytes(io.BufferedIOBase):
    """``sys.stdout.buffer``: bytes join the text in order."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: Any) -> int:
        """Write bytes and return their number."""
        raw = bytes(data)
        self._stream.write(self._decoder.decode(raw))
        return len(raw)

    def flush(self) -> None:
        """Send what was written."""
        if not self._stream.closed:
            self._stream.flush()

    def fileno(self) -> int:
        """Return the raw descriptor."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Say yes."""
        return True


class Shown:
    """What an object shows of itself: MIME bundle and metadata, as IPython asks for them."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}

    def gather(self, value: object) -> Shown:
        """Ask ``value`` for all its representations; a failing one is reported and left out."""
        if not isinstance(value, type):
            self._ask_for_bundle(value)
            for mime, method in REPRESENTATIONS:
                if mime not in self.data:
                    self._add(mime, self._call(value, method))
        if "image/png" not in self.data and is_figure(value):
            self.data["image/png"] = figure_png(value)
        if "text/plain" not in self.data:
            self.data["text/plain"] = repr(value)
        return self

    def _ask_for_bundle(self, value: object) -> None:
        bundle = self._call(value, "_repr_mimebundle_", include=None, exclude=None)
        metadata = None
        if isinstance(bundle, tuple) and len(bundle) == 2:
            bundle, metadata = bundle
        if isinstance(bundle, dict):
            self.data.update(bundle)
        if isinstance(metadata, dict):
            self.metadata.update(metadata)

    def _add(self, mime: str, answer: Any) -> None:
        if isinstance(answer, tuple) and len(answer) == 2:
            answer, self.metadata[mime] = answer
        if answer is not None:
            self.data[mime] = answer

    def _call(self, value: object, name: str, **options: object) -> Any:
        method = method_of(value, name)
        if method is None:
            return None
        try:
            return method(**options)
        except NotImplementedError:
            return None
        except Exception as error:  # noqa: BLE001 -- the other representations still count
            sys.stderr.write(traceback_text(error))
            return None

    def frame(self, kind: str) -> tuple[dict[str, Any], bytes]:
        """Return header and payload, cut to what the host accepts."""
        parts, payload, left_out = [], [], []
        room = MAX_PAYLOAD
        # The plain text goes first: it is what remains where the rest cannot be shown.
        for mime in sorted(self.data, key=lambda mime: mime != "text/plain"):
            raw, binary = part(self.data[mime])
            if mime == "text/plain" and len(raw) > room // 2:
                raw = raw[: room // 2] + encoded(f"\n... ({len(raw) - room // 2} bytes more)")
            if len(raw) > room or not isinstance(mime, str):
                left_out.append(f"{mime} ({len(raw)} bytes)")
                continue
            room -= len(raw)
            payload.append(raw)
            parts.append({"type": mime, "size": len(raw), "binary": binary})
        if left_out:
            sys.stderr.write(f"cellblock: too large to display: {', '.join(left_out)}\n")
        header: dict[str, Any] = {"kind": kind, "parts": parts}
        metadata = plain_json(self.metadata)
        if metadata is not None and len(metadata) + 100 * len(parts) < MAX_HEADER:
            header["metadata"] = json.loads(metadata)
        return header, b"".join(payload)


def method_of(value: object, name: str) -> Callable[..., Any] | None:
    """Return a method that ``value`` really has; objects that answer to every name have none."""
    try:
        if getattr(value, "_ipython_canary_method_should_not_exist_", None) is not None:
            return None
        method = getattr(value, name, None)
    except Exception:  # noqa: BLE001 -- a hostile __getattr__
        return None
    return method if callable(method) else None


def part(value: Any) -> tuple[bytes, bool]:
    """Return a representation's bytes, and whether they are binary."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), True
    if isinstance(value, str):
        return encoded(value), False
    return (plain_json(value) or encoded(repr(value)).decode("utf-8")).encode("utf-8"), False


def plain_json(value: Any) -> str | None:
    """Return JSON, or None for what JSON cannot say."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None


def is_figure(value: object) -> bool:
    """Tell a matplotlib figure without importing matplotlib."""
    module = sys.modules.get("matplotlib.figure")
    return module is not None and isinstance(value, module.Figure)


def figure_png(figure: Any) -> bytes:
    """Return a matplotlib figure as PNG, trimmed as notebooks trim it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    return file.getvalue()


def library(name: str) -> Any:
    """Import a module of the standard library, whatever lies in the cell's own directory.

    What a cell may not need is not imported before it runs: that would be half of its start.
    """
    path = sys.path
    sys.path = [entry for entry in path if entry]
    try:
        return importlib.import_module(name)
    finally:
        sys.path = path


def traceback_text(error: BaseException) -> str:
    """Return Python's own traceback without the frames of this file."""
    report = library("traceback").TracebackException(type(error), error, error.__traceback__)
    cells = (n for n, frame in enumerate(report.stack) if frame.filename.startswith(CELL))
    ours = next(cells, 0)
    del report.stack[:ours]  # the event loop's, below the cell
    reports, seen = [report], set()
    while reports:
        one = reports.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if one.stack:
            one.stack[:] = [frame for frame in one.stack if frame.filename != HERE]
        reports.extend(other for other in (one.__cause__, one.__context__) if other is not None)
        reports.extend(getattr(one, "exceptions", None) or ())
    lines = list(report.format())
    if not report.stack and lines[:1] == ["Traceback (most recent call last):\n"]:
        del lines[0]  # a syntax error: nothing of the cell ever ran
    return "".join(lines)


class Handle:
    """What updates a display, as ``IPython.display.DisplayHandle`` does."""

    count = 0

    def __init__(self, cell: Cell, display_id: Any = True) -> None:  # noqa: FBT002 -- IPython's
        self._cell = cell
        if display_id is True:
            Handle.count += 1
            display_id = f"display {Handle.count} of {os.getpid()}"
        self.display_id = str(display_id)

    def display(self, obj: Any, **options: Any) -> None:
        """Show another object under this name."""
        self._cell.display(obj, display_id=self.display_id, **options)

    def update(self, obj: Any, **options: Any) -> None:
        """Show an object in the place of what is shown under this name."""
        self._cell.display(obj, display_id=self.display_id, update=True, **options)


class Cell:
    """What runs here, one cell or one after another: displays, event loop, errors."""

    def __init__(self, channel: Channel) -> None:
        self.loop = Loop()
        self._channel = channel

    def display(
        self,
        *objects: Any,
        include: Any = None,
        exclude: Any = None,
        metadata: Any = None,
        transient: Any = None,
        display_id: Any = None,
        raw: bool = False,
        update: bool = False,
        **_more: Any,
    ) -> Handle | None:
        """Show objects, as ``IPython.display.display`` does; ``raw`` takes MIME bundles.

        With a ``display_id`` (True for a new one) what is shown can be updated, by the handle.
        """
        handle = None if display_id is None else Handle(self, display_id)
        identity = dict(transient or {})
        if handle is not None:
            identity["display_id"] = handle.display_id
        for value in objects:
            custom = None if isinstance(value, type) else method_of(value, "_ipython_display_")
            if raw:
                self.publish(value, metadata, transient=identity, update=update)
            elif custom is not None:
                custom()
            else:
                shown = Shown().gather(value)
                for mime in list(shown.data):
                    if (include and mime not in include) or (exclude and mime in exclude):
                        del shown.data[mime]
                shown.metadata.update(metadata or {})
                self._show("display", shown, identity, update=update)
        return handle

    def publish(
        self,
        data: Any,
        metadata: Any = None,
        source: Any = None,
        *,
        transient: Any = None,
        update: bool = False,
        **_more: Any,
    ) -> None:
        """Show a MIME bundle, as ``IPython.display.publish_display_data`` does."""
        del source
        if not isinstance(data, dict):
            raise TypeError(f"data must be a dict of MIME types, not {type(data).__name__}")
        shown = Shown()
        shown.data.update(data)
        shown.metadata.update(metadata or {})
        self._show("display", shown, transient, update=update)

    def clear_output(self, wait: bool = False) -> None:  # noqa: FBT001, FBT002 -- IPython's
        """Remove the outputs so far, at once or when the next one comes."""
        self._channel.send({"kind": "clear", "wait": bool(wait)})

    def show_result(self, value: Any) -> None:
        """Show the value of the cell's last expression (a ``sys.displayhook``)."""
        if value is None:
            return
        custom = None if isinstance(value, type) else method_of(value, "_ipython_display_")
        if custom is not None:
            custom()
            return
        self._show("result", Shown().gather(value), None)
        if is_figure(value) and "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close(value)

    def show_figures(self) -> None:
        """Show and close the open figures of matplotlib."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None or not hasattr(pyplot, "get_fignums"):
            return
        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            self.display(figure)
            pyplot.close(figure)

    def _show(
        self, kind: str, shown: Shown, transient: dict[str, Any] | None, *, update: bool = False
    ) -> None:
        if self._channel.open:
            header, payload = shown.frame(kind)
            name = (transient or {}).get("display_id")
            if name is not None:
                header["display_id"], header["update"] = str(name)[:MAX_ID], bool(update)
            self._channel.send(header, payload)
        else:
            print(shown.data.get("text/plain", ", ".join(shown.data)))

    def run(self, name: str, source: str, namespace: dict[str, Any]) -> int:
        """Run the source and return the exit status; errors are sent."""
        status = self.attempt(lambda: self._execute(name, source, namespace))
        return self.attempt(self.show_figures) or status

    def attempt(self, work: Callable[[], int | None]) -> int:
        """Do a part of the work and return its exit status; errors are sent."""
        try:
            return work() or 0
        except SystemExit as leave:
            if leave.code is None or isinstance(leave.code, int):
                return (leave.code or 0) & 0xFF
            sys.stderr.write(f"{leave.code}\n")
            return 1
        except BaseException as error:  # noqa: BLE001 -- whatever a cell raises is shown
            self._report(error)
            return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1

    def _execute(self, name: str, source: str, namespace: dict[str, Any]) -> None:
        try:
            tree = parse(source, name)
        except SyntaxError as error:
            source = translated(source, error, namespace)
            tree = parse(source, name)
        last: list[_ast.stmt] = []
        if tree.body and isinstance(tree.body[-1], _ast.Expr) and not is_silenced(source, tree):
            last = [tree.body.pop()]
        code = compile(tree, name, "exec", AWAIT, dont_inherit=True)
        flags = code.co_flags & FUTURES | AWAIT
        shown = compile(_ast.Interactive(last), name, "single", flags, dont_inherit=True)
        codes = [code, shown] if last else [code]
        if any(code.co_flags & IS_COROUTINE for code in codes):
            self.loop.run(codes, namespace)
            return
        for code in codes:
            exec(code, namespace)  # noqa: S102 -- running the cell is the purpose

    def _report(self, error: BaseException) -> None:
        try:
            evalue = str(error)
            text = traceback_text(error)
            if isinstance(error, UsageError):
                text = f"UsageError: {evalue}\n"
        except Exception as broken:  # noqa: BLE001 -- an exception that cannot be printed
            evalue = "<unprintable>"
            text = f"{type(error).__name__} ({type(broken).__name__} while printing it)\n"
        if not self._channel.open:
            sys.stderr.write(text)
            return
        header = {
            "kind": "error",
            "ename": type(error).__name__[:200],
            "evalue": encoded(evalue[:MAX_EVALUE]).decode("utf-8"),
        }
        self._channel.send(header, encoded(text)[:MAX_PAYLOAD])


def parse(source: str, name: str) -> _ast.Module:
    """Return the syntax tree of a cell."""
    flags: int = _ast.PyCF_ONLY_AST | AWAIT
    tree: _ast.Module = compile(source, name, "exec", flags, dont_inherit=True)
    return tree


class UsageError(Exception):
    """A line is IPython's, and there is no IPython."""


def translated(source: str, error: SyntaxError, namespace: dict[str, Any]) -> str:
    """Return as Python what is Python with IPython's ``%magics`` and ``!commands``.

    Raises the error of a cell that is neither, and UsageError if the image has no IPython.
    """
    search = library("re").search
    if search(r"(?m)^\s*[%!?]|=\s*[%!]|\?\s*$", source) is None:
        raise error
    try:
        shell, manager = ipython(namespace)
    except ImportError:
        line = source.splitlines()[(error.lineno or 1) - 1 : error.lineno]
        if search(r"^\s*[%!?]|=\s*[%!]|\?\s*$", "".join(line)) is None:
            raise error from None
        raise UsageError(
            f"line {error.lineno} needs IPython, which this image does not have: %magics and !cmd "
            "are IPython's; in plain Python, use subprocess.run"
        ) from None
    namespace["get_ipython"] = lambda: shell
    result: str = manager.transform_cell(source)
    return result


def ipython(namespace: dict[str, Any]) -> tuple[Any, Any]:
    """Return IPython's shell around the cell's namespace, and what translates its syntax."""
    core = importlib.import_module("IPython.core.interactiveshell")
    configuration = importlib.import_module("traitlets.config").Config()
    configuration.HistoryManager.enabled = False
    kept = ("In", "_ih", "Out", "_oh")
    history: dict[str, Any] = {name: namespace[name] for name in kept if name in namespace}
    shell = core.InteractiveShell.instance(
        config=configuration, user_module=sys.modules["__main__"], user_ns=namespace
    )
    namespace.update(history)
    for name in ("exit", "quit"):  # they would ask a shell to leave that nobody runs
        namespace.pop(name, None)
    shell.system = shell.system_raw  # no terminal: outputs stay in order
    shell.enable_gui = lambda *_gui: None  # %matplotlib asks for a loop; there is no screen
    return shell, shell.input_transformer_manager


class Loop:
    """The event loop of what awaits at top level, made when it is needed."""

    def __init__(self) -> None:
        self._loop: Any = None

    def run(self, codes: list[types.CodeType], namespace: dict[str, Any]) -> None:
        """Run code that awaits. The tasks that it leaves go on while other code awaits."""
        asyncio = library("asyncio")
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        try:
            asyncio.set_event_loop(self._loop)
            for code in codes:
                awaitable = eval(code, namespace)  # noqa: S307 -- running the cell is the purpose
                if code.co_flags & IS_COROUTINE:
                    self._await(self._loop.create_task(awaitable))
        finally:
            asyncio.set_event_loop(None)

    def close(self) -> None:
        """Cancel the tasks that are left, and see them end."""
        if self._loop is not None and not self._loop.is_closed():
            self._end(library("asyncio").all_tasks(self._loop))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _await(self, task: Any) -> None:
        try:
            self._loop.run_until_complete(task)
        except BaseException:  # an interrupt may have struck the loop, not the task
            self._end([task])
            raise

    def _end(self, tasks: Any) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            together = library("asyncio").gather(*tasks, return_exceptions=True)
            self._loop.run_until_complete(together)


def is_silenced(source: str, tree: _ast.Module) -> bool:
    """Tell whether a semicolon after the last expression asks not to show it."""
    last = tree.body[-1]
    lines = source.encode("utf-8").splitlines()
    tail = lines[(last.end_lineno or 1) - 1 :]
    rest = b"\n".join([tail[0][last.end_col_offset or 0 :], *tail[1:]]) if tail else b""
    return rest.lstrip(b") \t\r\n\\").startswith(b";")


class ImportHooks:
    """Acquaint some libraries with the cell, once they are imported.

    Two are led to its displays, one to the notebook's input; ``linecache`` gets the lines of
    cells, for tracebacks.
    """

    def __init__(self, cell: Cell, inbox: Inbox) -> None:
        display = {
            "display": cell.display,
            "publish_display_data": cell.publish,
            "clear_output": cell.clear_output,
        }
        self._texts: dict[str, tuple[int, None, list[str], str]] = {}

        def show(*_arguments: object, **_options: object) -> None:  # pyplot sets attributes on it
            cell.show_figures()

        self._changes: dict[str, Callable[[Any], object]] = {
            "IPython.core.display_functions": lambda module: vars(module).update(display),
            "matplotlib.pyplot": lambda module: setattr(module, "show", show),
            "getpass": lambda module: setattr(module, "getpass", inbox.getpass),
            "linecache": lambda module: module.cache.update(self._texts),
        }
        for name in self._changes.keys() & sys.modules.keys():
            self._changes[name](sys.modules[name])

    def remember(self, name: str, source: str) -> None:
        """Keep the lines of a cell for tracebacks."""
        self._texts[name] = (len(source), None, list(io.StringIO(source + "\n", None)), name)
        if "linecache" in sys.modules:
            self._changes["linecache"](sys.modules["linecache"])

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find as usual, and change the module after its body has run."""
        if name not in self._changes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            execute(module)
            self._changes[name](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


class StdinNotImplementedError(NotImplementedError):
    """Nobody can be asked: the front end takes no input, or there is none."""


class Inbox:
    """The framed way in, and questions to whoever sits in front of the notebook."""

    def __init__(self, fd: int, channel: Channel) -> None:
        self.brings_cells = False  # to the main thread, which then is the only one to read
        self._fd, self._channel = fd, channel
        self._buffer = bytearray()
        self._lock = threading.Lock()
        self._asked = 0

    def read(self) -> tuple[dict[str, Any], bytes]:
        """Return the next frame. Raises EOFError."""
        head, size = LENGTHS.unpack(self._take(LENGTHS.size))
        header: dict[str, Any] = json.loads(self._take(head))
        return header, self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = os.read(self._fd, 1 << 20)
            if not data:
                raise EOFError("EOF when reading a line")
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def input(self, prompt: object = "", /) -> str:
        """Ask for a line, as ``builtins.input`` does."""
        return self._ask(str(prompt), secret=False)

    def getpass(self, prompt: str = "Password: ", stream: object = None, **_more: object) -> str:
        """Ask for a secret, as ``getpass.getpass`` does."""
        del stream
        return self._ask(str(prompt), secret=True)

    def _ask(self, prompt: str, *, secret: bool) -> str:
        if self.brings_cells and threading.current_thread() is not threading.main_thread():
            raise StdinNotImplementedError("only the cell's main thread can ask for input")
        with self._lock:
            if not self._channel.open:
                raise EOFError("EOF when reading a line")  # a forked child has no notebook
            self._asked += 1
            header = {"kind": "input", "id": self._asked, "secret": secret}
            self._channel.send(header, encoded(prompt)[:MAX_PROMPT])
            while True:
                answer, text = self.read()
                if answer.get("id") == self._asked:  # others are of questions interrupted
                    break
        if answer["kind"] == "unasked":
            raise StdinNotImplementedError(
                "input was asked for, but this front end does not support input requests"
            )
        if answer["kind"] != "answer":
            raise EOFError("EOF when reading a line")
        return text.decode("utf-8")


class Order:
    """What the host sent: a cell, and the variables that travel with it."""

    def __init__(self, inbox: Inbox) -> None:
        self.codec = types.ModuleType("__cellblock_codec__")
        self.given: dict[str, bytes] = {}
        kind = ""
        while kind != "cell":
            header, payload = inbox.read()
            kind = header["kind"]
            if kind == "codec":
                exec(compile(payload, HERE, "exec"), self.codec.__dict__)  # noqa: S102
            elif kind == "variable":
                self.given[header["name"]] = payload
        self.source: str = payload.decode("utf-8")
        self.wanted: list[str] = header["out"]
        self.name: str = header["name"]
        self.number: int = header["number"]

    def hand_in(self, channel: Channel, namespace: dict[str, Any]) -> int:
        """Put the given variables into the cell's namespace and return 0 if all could be."""
        status = 0
        for name, data in self.given.items():
            try:
                namespace[name] = self.codec.loads(data)
            except Exception as error:  # noqa: BLE001 -- a broken NumPy or pandas of the image
                channel.send(refusal(name, "did not arrive in the container", error))
                status = 1
        self.given.clear()
        return status

    def hand_out(self, channel: Channel, namespace: dict[str, Any]) -> None:
        """Send the wanted variables that there are."""
        for name in self.wanted:
            if name not in namespace:
                continue  # the host says what it misses
            try:
                data = self.codec.dumps(namespace[name])
            except Exception as error:  # noqa: BLE001 -- whatever an object's own methods raise
                channel.send(refusal(name, "cannot travel out of the container", error))
                continue
            header = {"kind": "variable", "name": name, "size": len(data)}
            for start in range(0, len(data), MAX_PAYLOAD):
                channel.send(header, data[start : start + MAX_PAYLOAD])


def refusal(name: str, what: str, error: Exception) -> dict[str, Any]:
    """Return the frame that tells why a variable stays where it is."""
    reason = str(error) if type(error).__name__ == "CannotTravel" else repr(error)
    return {"kind": "refused", "name": name, "reason": f"{what}: {reason[:2000]}"}


def fresh_session(source: str) -> dict[str, Any]:
    """Return the names of history as the first cell of a new IPython finds them."""
    inputs: list[str] = ["", source]
    outputs: dict[int, object] = {}
    names = dict.fromkeys(("_", "__", "___", "_i", "_ii", "_iii"), "")
    return {**names, "_i1": source, "In": inputs, "_ih": inputs, "Out": outputs, "_oh": outputs}


class Guest:
    """The process, made to look like a notebook to the cells that it runs."""

    def __init__(self) -> None:
        faulthandler.enable(2)
        os.set_inheritable(FRAMES_FD, False)  # noqa: FBT003 -- the standard library's signature
        os.set_inheritable(SOURCE_FD, False)  # noqa: FBT003
        self.channel = Channel(FRAMES_FD)
        python = sys.version.split()[0]
        self.channel.send({"kind": "hello", "protocol": PROTOCOL, "python": python})
        for given, standard in RAW_FDS.items():
            os.dup2(given, standard)
            os.close(given)
        self.inbox = Inbox(SOURCE_FD, self.channel)
        self.cell = Cell(self.channel)
        self._hooks = ImportHooks(self.cell, self.inbox)
        self._main = types.ModuleType("__main__")
        self.namespace["__builtins__"] = builtins
        self._install()
        atexit.register(self.channel.finish)  # first in, last out: behind what cells register

    @property
    def namespace(self) -> dict[str, Any]:
        """The names of the cells."""
        return self._main.__dict__

    def _install(self) -> None:
        os.register_at_fork(
            before=self.channel.before_fork,
            after_in_parent=self.channel.after_fork_in_parent,
            after_in_child=self.channel.after_fork_in_child,
        )
        sys.addaudithook(self.channel.audit)
        sys.stdout = Stream(self.channel, "stdout", 1)
        sys.stderr = Stream(self.channel, "stderr", 2)
        sys.displayhook = self.cell.show_result
        builtins.display = self.cell.display  # type: ignore[attr-defined]
        builtins.input = self.inbox.input
        sys.meta_path.insert(0, self._hooks)
        sys.argv = [""]
        if sys.path and sys.path[0] == os.path.dirname(HERE):  # noqa: PTH120
            sys.path[0] = ""
        sys.modules["__cellblock__"] = sys.modules["__main__"]
        sys.modules["__main__"] = self._main

    def do(self, order: Order) -> int:
        """Run a cell, and let its variables travel; return the exit status."""
        self._hooks.remember(order.name, order.source)
        status = self.cell.attempt(lambda: order.hand_in(self.channel, self.namespace))
        status = status or self.cell.run(order.name, order.source, self.namespace)
        return status or self.cell.attempt(lambda: order.hand_out(self.channel, self.namespace))

    def interruptible(self, order: Order) -> int:
        """Run a cell, the only time that SIGINT raises KeyboardInterrupt; return its status."""
        try:
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                return self.do(order)
            finally:
                signal.signal(signal.SIGINT, let_be)
        except KeyboardInterrupt:  # it struck behind the cell's own end
            signal.signal(signal.SIGINT, let_be)
            return INTERRUPTED


def let_be(_signum: int, _frame: object) -> None:
    """Take an interrupt that came when no cell ran; unlike SIG_IGN no child inherits this."""


def flush(stream: Any) -> None:
    """Send what waits in a stream; a cell may have put anything in the place of ours."""
    try:
        stream.flush()
    except Exception:  # noqa: BLE001 -- closed, most likely
        return


def run() -> int:
    """Run the cell that waits on descriptor 3 and return the exit status."""
    guest = Guest()
    order = Order(guest.inbox)
    guest.namespace.update(fresh_session(order.source))
    status = guest.do(order)
    status = guest.cell.attempt(guest.cell.loop.close) or status
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # threads may still run; an interrupt ends them
    guest.channel.settle()
    return status


def serve() -> None:
    """Run one cell after another in one namespace, for as long as any are sent."""
    guest = Guest()
    guest.inbox.brings_cells = True
    while guest.channel.open:  # not in a child that a cell forked and let run on
        try:
            order = Order(guest.inbox)
        except EOFError:
            return
        except KeyboardInterrupt:  # before the first cell, and so nothing is lost
            sys.exit(INTERRUPTED)
        status = guest.interruptible(order)
        for stream in (sys.stdout, sys.stderr):
            flush(stream)
        guest.channel.settle()
        guest.channel.send({"kind": "end", "number": order.number, "status": status})


if __name__ == "__main__":
    sys.exit(run())
