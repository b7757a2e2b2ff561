"""Nothing stays open when another kernel takes the place of one."""

from __future__ import annotations

import zmq

from cellblock_kernel.gate.farewell import farewells
from cellblock_kernel.gate.ledger import Ledger
from cellblock_kernel.gate.messages import Message


def asked(ledger, kind="execute_request", channel="shell"):
    request = Message.of(kind, {}, identities=[zmq.Frame(b"client")])
    list(ledger.inward(channel, request))
    return request


def status(ledger, request, state):
    said = Message.of("status", {"execution_state": state}, parent=request.header)
    list(ledger.outward("iopub", said))


def replied(ledger, request):
    list(ledger.outward("shell", Message.of("reply", {}, parent=request.header)))


def told(ledger, request):
    """Return what is said of a request: channel, kind, status or state."""
    return [
        (channel, message.kind, message.content.get("status", message.content.get("ename")))
        for channel, message in farewells(ledger)
        if message.parent_id == request.id
    ]


def test_a_cell_that_runs_fails_and_what_is_queued_is_aborted():
    ledger = Ledger()
    running, queued, info = asked(ledger), asked(ledger), asked(ledger, "kernel_info_request")
    status(ledger, running, "busy")
    assert told(ledger, running) == [
        ("iopub", "error", "KernelSwapped"),
        ("shell", "execute_reply", "error"),
        ("iopub", "status", None),
    ]
    assert told(ledger, queued) == [
        ("shell", "execute_reply", "aborted"),
        ("iopub", "status", None),
    ]
    assert told(ledger, info)[0] == ("shell", "kernel_info_reply", "aborted")
    replies = [message for channel, message in farewells(ledger) if channel == "shell"]
    assert all(reply.identities[0].bytes == b"client" for reply in replies)


def test_what_is_half_done_gets_its_other_half():
    ledger = Ledger()
    answered, still = asked(ledger), asked(ledger, "interrupt_request", "control")
    status(ledger, answered, "busy")
    replied(ledger, answered)
    status(ledger, still, "idle")
    assert told(ledger, answered) == [("iopub", "status", None)]
    assert told(ledger, still) == [("control", "interrupt_reply", "aborted")]


def test_comms_are_closed_then_the_kernel_restarts_and_is_idle():
    ledger = Ledger()
    list(ledger.outward("iopub", Message.of("comm_open", {"comm_id": "c"})))
    assert [
        (channel, message.kind, dict(message.content)) for channel, message in farewells(ledger)
    ] == [
        ("iopub", "comm_close", {"comm_id": "c", "data": {}}),
        ("iopub", "status", {"execution_state": "restarting"}),
        ("iopub", "status", {"execution_state": "idle"}),
    ]
