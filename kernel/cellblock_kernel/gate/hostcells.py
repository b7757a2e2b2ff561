"""Cells that begin with ``%container``: carried out on this machine, for the kernel's container.

Such a cell takes the kernel's turn. In its place the kernel is asked to do nothing; when it has
answered that it has, and everything asked before has been answered, the cell's
:mod:`~cellblock_kernel.gate.operation` begins. Until its end the kernel's answer is held back, and
so is what is asked of the same shell meanwhile. Control, stdin and other subshells never wait.

What is carried out comes from the front end's request alone: a kernel can hold it up, as it can
any cell, but neither cause, repeat nor change it.

A cell may ask its user a question, as a kernel would. Where it names a successor for the kernel, it
ends when that has taken over, or cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import zmq

from .hostcell import HostCell, count_of, is_host_cell, sender
from .ledger import Ledger, stops_on_error
from .messages import Message
from .operation import COMMAND, TIME_LIMIT_S, Failure, Operation, Words
from .options import Successor
from .rules import Passage

if TYPE_CHECKING:
    from .recorder import Recorder

# ipykernel neither counts an empty cell nor gives it a number of its own; others do.
_NOTHING = {"python": "# %container"}
_MOST_HELD, _MOST_HELD_BYTES = 1000, 64 << 20
_MOST_BEHIND, _MOST_BEHIND_BYTES = 100, 1 << 20
_NO_SUCCESSOR = "the kernel of this notebook cannot be swapped for another"

Succeed = Callable[[Successor, Callable[[Failure | None], None]], None]
"""Lets a kernel take the place of the one there is, later, and says how that went."""


class HostCells:
    """The rule that carries out host cells; it stands next to the recorder of other cells."""

    def __init__(
        self, ledger: Ledger, recorder: Recorder, command: Sequence[str] = COMMAND
    ) -> None:
        self._ledger, self._recorder, self._program = ledger, recorder, command
        self._command = command
        self._passage: Passage | None = None
        self._cells: dict[str | None, HostCell] = {}  # one at a time for each shell
        self._language = ""
        self._held_bytes = 0
        self.succeed: Succeed | None = None
        """What lets a successor take the kernel's place."""

    def serve(self, container: str, passage: Passage) -> None:
        """Begin to carry out cells, for this container."""
        self._command = (*self._program, f"--container={container}", f"--within={TIME_LIMIT_S}")
        self._passage = passage

    def close(self) -> None:
        """End what goes on, and begin nothing more; nobody is told."""
        self._passage = None
        for cell in self._cells.values():
            if cell.operation is not None:
                cell.operation.kill()
                cell.operation = None

    def abandon(self, failure: Failure) -> None:
        """End what goes on with this failure, and begin nothing that waits for its turn."""
        for cell in tuple(self._cells.values()):
            cell.is_aborted = True
            if cell.operation is not None:
                cell.operation.kill()
                self._on_end(cell, failure)
            elif cell.is_handing_over:
                self._on_end(cell, failure)

    def interrupt(self) -> bool:
        """End what goes on, as an interrupt does; return whether that was in the main shell.

        A kernel that is taking over is not stopped any more.
        """
        for cell in self._cells.values():
            if cell.operation is not None:
                cell.operation.interrupt()
        main = self._cells.get(None)
        return main is not None and (main.operation is not None or main.is_handing_over)

    def inward(self, channel: str, message: Message) -> Iterable[Message]:
        """Hold back what comes behind a host cell, and take such a cell's place."""
        if channel == "control" and message.kind == "interrupt_request" and self.interrupt():
            self._answer(channel, message, {"status": "ok"})
            return ()
        if channel == "stdin" and message.kind == "input_reply" and self._answered(message):
            return ()
        if channel != "shell" or self._passage is None:
            return (message,)
        cell = self._cells.get(message.subshell)
        if cell is not None:
            self._hold(cell, message)
            return ()
        return (self._admitted(message),)

    def outward(self, channel: str, message: Message) -> Iterable[Message]:
        """Hold back what the kernel says at the end of a host cell; note what else it answers."""
        if channel in ("shell", "control") and message.kind == "kernel_info_reply":
            self._note_language(message)
        if channel == "stdin" and (asking := self._asking()) is not None:
            # An answer to the kernel's question must not be taken for one to the cell's.
            waiting_bytes = sum(each.size for each in (*asking.behind, message))
            if len(asking.behind) < _MOST_BEHIND and waiting_bytes <= _MOST_BEHIND_BYTES:
                asking.behind.append(message)
            return ()
        if self._cells and channel == "shell" and message.kind == "execute_reply":
            return self._on_reply(message)
        if self._cells and channel == "iopub":
            return self._on_publication(message)
        return (message,)

    def _admitted(self, message: Message) -> Message:
        """Return what the kernel is asked; from a host cell on, its shell's turn is that cell's."""
        if message.kind != "execute_request" or not message.id or not is_host_cell(message):
            return message
        before = {
            asked.message.id: asked.stops
            for asked in self._ledger.open_requests()
            if asked.kind == "execute_request"
            and asked.subshell == message.subshell
            and not asked.replied
        }
        self._cells[message.subshell] = HostCell(message, before)
        return message.but(content={**message.content, "code": _NOTHING.get(self._language, "")})

    def _on_reply(self, message: Message) -> Iterable[Message]:
        own = self._find(message.parent_id)
        if own is not None:
            if own.reply is None:
                own.reply = message
                self._proceed(own)
            return ()  # a second one is none
        for cell in tuple(self._cells.values()):
            if message.parent_id in cell.before:
                stops = cell.before.pop(message.parent_id)
                cell.is_aborted |= stops and message.content.get("status") != "ok"
                self._proceed(cell)
        return (message,)

    def _on_publication(self, message: Message) -> Iterable[Message]:
        cell = self._find(message.parent_id)
        if cell is None:
            return (message,)
        if message.kind == "execute_input":
            if cell.is_shown:
                return ()
            cell.is_shown = True
            cell.count = count_of(message)
            code = cell.request.content["code"]
            return (message.but(content={"code": code, "execution_count": cell.count}),)
        if message.kind == "status" and message.content.get("execution_state") == "idle":
            cell.idle = message
            self._proceed(cell)
            return ()
        return (message,)

    def _proceed(self, cell: HostCell) -> None:
        """Begin when it is the cell's turn; end it where the kernel has not come to it."""
        if self._passage is None:
            return  # what was not done is not answered
        if cell.reply is None or cell.idle is None:
            return
        if cell.operation is not None or cell.is_handing_over:
            return
        if cell.reply.content.get("status") != "ok":
            self._end(cell, cell.reply)
        elif cell.is_aborted:  # an honest kernel would have said so
            self._end(cell, cell.reply.but(content={"status": "aborted"}))
        elif not cell.before:
            self._begin(cell)

    def _begin(self, cell: HostCell) -> None:
        assert self._passage is not None
        assert cell.reply is not None
        content = cell.request.content
        code = content["code"]
        # Not every kernel shows an empty cell.
        if not (cell.is_shown or content.get("silent", False)):
            cell.count = count_of(cell.reply)
            shown = {"code": code, "execution_count": cell.count}
            self._publish(cell.request, "execute_input", shown)

        def show(kind: str, content: Mapping[str, Any]) -> None:
            self._publish(cell.request, kind, content)

        def ask(prompt: str) -> None:
            self._ask(cell, prompt)

        def end(failure: Failure | None) -> None:
            self._on_operation_end(cell, failure)

        record = self._recorder.record()

        def committed() -> None:
            self._recorder.forget(record)

        words = Words(code, record.text)
        try:
            cell.operation = Operation(
                self._command,
                words,
                self._passage,
                show=show,
                committed=committed,
                ask=ask,
                end=end,
            )
        except OSError as error:
            end(Failure("OSError", f"the cell's process does not start: {error.strerror}"))

    def _on_operation_end(self, cell: HostCell, failure: Failure | None) -> None:
        """End the cell, or let it wait for the kernel that it wants in the place of this one."""
        successor = None if cell.operation is None else cell.operation.successor
        if failure is not None or successor is None:
            self._on_end(cell, failure)
            return
        if self.succeed is None:
            self._on_end(cell, Failure("Unsupported", _NO_SUCCESSOR))
            return
        cell.operation, cell.is_handing_over = None, True

        def end(failure: Failure | None) -> None:
            if self._cells.get(cell.request.subshell) is cell:  # another was faster
                self._on_end(cell, failure)

        self.succeed(successor, end)

    def _ask(self, cell: HostCell, prompt: str) -> None:
        """Ask the front end that has sent the cell, as its kernel would."""
        assert self._passage is not None
        if not cell.request.content.get("allow_stdin", False):
            if cell.operation is not None:
                cell.operation.answer(None)
            return
        content = {"prompt": prompt, "password": False}
        question = Message.of(
            "input_request",
            content,
            parent=cell.request.header,
            identities=cell.request.identities,
        )
        cell.question = question.id
        self._passage.pass_outward("stdin", question, self)

    def _asking(self) -> HostCell | None:
        cells = (cell for cell in self._cells.values() if cell.question)
        return next(cells, None)

    def _answered(self, message: Message) -> bool:
        """Return whether it answers what a cell has asked, which then knows.

        Not every front end says what question an answer is for.
        """
        cell = self._asking()
        if cell is None or sender(cell.request) != sender(message):
            return False
        if message.parent_id not in ("", cell.question):
            return False
        value = message.content.get("value")
        if cell.operation is not None:
            cell.operation.answer(value if isinstance(value, str) else "")
        self._end_question(cell)
        return True

    def _end_question(self, cell: HostCell) -> None:
        """Let the kernel ask again, and what it has asked meanwhile."""
        assert self._passage is not None
        questions, cell.behind, cell.question = cell.behind, [], ""
        for question in questions:
            self._passage.pass_outward("stdin", question, self)

    def _on_end(self, cell: HostCell, failure: Failure | None) -> None:
        assert cell.reply is not None
        reply = cell.reply
        count = count_of(reply) if cell.count is None else cell.count
        if failure is not None:
            line = ": ".join(filter(None, (failure.ename, failure.evalue)))
            error = {"ename": failure.ename, "evalue": failure.evalue, "traceback": [line]}
            self._publish(cell.request, "error", error)
            content = {"status": "error", "execution_count": count, **error}
            reply = reply.but(content=content | {"user_expressions": {}, "payload": []})
        elif count != count_of(reply):
            reply = reply.but(content={**reply.content, "execution_count": count})
        self._end(cell, reply)

    def _end(self, cell: HostCell, reply: Message) -> None:
        """Let pass what was held back: the end of this cell, then what came behind it."""
        assert self._passage is not None
        assert cell.idle is not None
        self._end_question(cell)
        del self._cells[cell.request.subshell]
        self._passage.pass_outward("shell", reply, self)
        self._passage.pass_outward("iopub", cell.idle, self)
        status = reply.content.get("status")
        stops = status == "aborted" or (status != "ok" and stops_on_error(cell.request))
        for message in cell.held:
            self._held_bytes -= message.size
            if stops and message.kind == "execute_request":
                self._answer("shell", message, {"status": "aborted"})
                continue
            for passed in self.inward("shell", message):
                self._passage.pass_inward("shell", passed, self)
        if self._has_room():
            self._passage.resume("shell")

    def _hold(self, cell: HostCell, message: Message) -> None:
        assert self._passage is not None
        cell.held.append(message)
        self._held_bytes += message.size
        if not self._has_room():
            self._passage.pause("shell")

    def _has_room(self) -> bool:
        held = sum(len(cell.held) for cell in self._cells.values())
        return held < _MOST_HELD and self._held_bytes < _MOST_HELD_BYTES

    def _answer(self, channel: str, request: Message, content: Mapping[str, Any]) -> None:
        """Answer in the kernel's place, in the words of ipykernel."""
        assert self._passage is not None
        reply = Message.of(
            request.kind.replace("_request", "_reply"),
            content,
            parent=request.header,
            identities=request.identities,
            metadata=content,
        )
        self._publish(request, "status", {"execution_state": "busy"})
        self._passage.pass_outward(channel, reply, self)
        self._publish(request, "status", {"execution_state": "idle"})

    def _publish(self, request: Message, kind: str, content: Mapping[str, Any]) -> None:
        assert self._passage is not None
        topic = [zmq.Frame(kind.encode())]
        said = Message.of(kind, content, parent=request.header, identities=topic)
        self._passage.pass_outward("iopub", said, self)

    def _find(self, msg_id: str) -> HostCell | None:
        cells = (cell for cell in self._cells.values() if cell.request.id == msg_id)
        return next(cells, None)

    def _note_language(self, message: Message) -> None:
        info = message.content.get("language_info")
        name = info.get("name") if isinstance(info, dict) else None
        self._language = name if isinstance(name, str) else ""
