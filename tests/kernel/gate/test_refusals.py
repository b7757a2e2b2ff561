"""A cell that failed at the pids limit is told so; no other is."""

from __future__ import annotations

import pytest

from cellblock_engine import Conflict, Stats
from cellblock_kernel.gate.ledger import Ledger
from cellblock_kernel.gate.messages import Message
from cellblock_kernel.gate.refusals import Refusals

LINE = (
    "cellblock: pids limit: beyond the limit of 64, starting a process or thread was refused 3 "
    "times; raise it with --pids-limit of kernel install\n"
)


class Container:
    def __init__(self):
        self.refused, self.limit, self.looks = 5, 64, 0

    def stats(self):
        self.looks += 1
        if self.limit == "ended":
            raise Conflict("it has ended")
        return Stats(None, None, None, None, None, 7, self.limit, 1.0, self.refused)


class Kernel:
    def __init__(self):
        self.container, self.ledger = Container(), Ledger()
        self.rule = Refusals(self.ledger)
        self.rule.serve(self.container)

    def ask(self, kind="execute_request"):
        request = Message.of(kind, {})
        for rule in (self.rule, self.ledger):
            assert list(rule.inward("shell", request)) == [request]
        return request

    def say(self, request, kind, **content):
        """Return what more the rule says after this."""
        said = Message.of(kind, content, parent=request.header)
        list(self.ledger.outward("iopub", said))
        first, *more = self.rule.outward("iopub", said)
        assert first is said
        return more


@pytest.fixture
def kernel():
    return Kernel()


def test_a_cell_that_was_refused_something_and_fails_is_told(kernel):
    cell = kernel.ask()
    assert kernel.say(cell, "status", execution_state="busy") == []
    kernel.container.refused += 3
    (line,) = kernel.say(cell, "error", ename="whatever", evalue="hostile")
    assert (line.kind, line.parent_id, line.content) == (
        "stream",
        cell.id,
        {"name": "stderr", "text": LINE},
    )
    assert kernel.say(cell, "error", ename="again") == []


def test_a_kernel_may_be_at_it_before_it_says_so(kernel):
    cell = kernel.ask()
    kernel.container.refused += 3
    kernel.say(cell, "status", execution_state="busy")
    assert [line.content["text"] for line in kernel.say(cell, "error")] == [LINE]


def test_no_other_is(kernel):
    kernel.container.refused += 3  # before
    cell = kernel.ask()
    kernel.say(cell, "status", execution_state="busy")
    assert kernel.say(cell, "error") == []
    coped = kernel.ask()
    kernel.say(coped, "status", execution_state="busy")
    kernel.container.refused += 3
    assert kernel.say(coped, "status", execution_state="idle") == []
    later = kernel.ask()
    kernel.say(later, "status", execution_state="busy")
    assert kernel.say(later, "error") == []


@pytest.mark.parametrize("limit", [None, "ended"])
def test_where_nothing_is_counted_nothing_is_said(kernel, limit):
    kernel.container.limit = limit
    cell = kernel.ask()
    kernel.say(cell, "status", execution_state="busy")
    kernel.container.refused += 3
    assert kernel.say(cell, "error") == []


def test_a_kernel_cannot_make_it_look_without_end(kernel):
    cell, other = kernel.ask(), kernel.ask("kernel_info_request")
    for _ in range(100):
        kernel.say(cell, "status", execution_state="busy")
        kernel.say(other, "status", execution_state="busy")
        kernel.say(Message.of("execute_request", {}), "status", execution_state="busy")
        kernel.say(cell, "error")
        kernel.say(cell, "status", execution_state="idle")
    assert kernel.container.looks == 2
