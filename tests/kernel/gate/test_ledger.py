"""What is open, by what has passed."""

from __future__ import annotations

from cellblock_kernel.gate.ledger import Ledger
from cellblock_kernel.gate.messages import Message


def asked(ledger, kind="execute_request", channel="shell", **header):
    request = Message.of(kind, {"code": "x" * 1000})
    request = request.but(header={**request.header, **header})
    assert list(ledger.inward(channel, request)) == [request]
    return request


def status(ledger, request, state):
    said = Message.of("status", {"execution_state": state}, parent=request.header)
    assert list(ledger.outward("iopub", said)) == [said]


def replied(ledger, request, channel="shell"):
    reply = Message.of("execute_reply", {"status": "ok"}, parent=request.header)
    assert list(ledger.outward(channel, reply)) == [reply]


def ids(requests):
    return [request.message.id for request in requests]


def test_a_request_is_open_until_it_is_answered_and_idle():
    ledger = Ledger()
    first, second = asked(ledger), asked(ledger)
    assert ids(ledger.open_requests()) == [first.id, second.id]
    status(ledger, first, "busy")
    assert ids(ledger.running_cells()) == [first.id]
    replied(ledger, first)
    assert ids(ledger.running_cells()) == []
    assert ledger.find(first.id).message.header == first.header
    status(ledger, first, "idle")
    assert ledger.find(first.id) is None
    status(ledger, second, "idle")
    assert ledger.find(second.id) is not None
    replied(ledger, second)
    assert ledger.open_requests() == ()


def test_the_cells_that_an_ended_kernel_was_at():
    ledger = Ledger()
    assert ledger.lost_cells() == ()
    asked(ledger, "kernel_info_request")
    first, second = asked(ledger), asked(ledger)
    assert ids(ledger.lost_cells()) == [first.id]  # it ended before it could say so
    status(ledger, second, "busy")
    assert ids(ledger.lost_cells()) == [second.id]
    replied(ledger, second)
    replied(ledger, first)
    assert ledger.lost_cells() == ()


def test_a_shutdown_that_was_asked_for_is_known_until_another_kernel_comes():
    ledger = Ledger()
    assert not ledger.shutdown_asked
    asked(ledger, "shutdown_request", "control")
    asked(ledger)
    assert ledger.shutdown_asked
    ledger.clear()
    assert not ledger.shutdown_asked


def test_a_kernel_answers_once_it_has_said_something():
    ledger = Ledger()
    request = asked(ledger)
    assert not ledger.answers
    status(ledger, request, "busy")
    assert ledger.answers
    ledger.clear()
    replied(ledger, request)
    assert ledger.answers


def test_what_is_kept_is_small_and_knows_its_subshell():
    ledger = Ledger()
    request = asked(ledger, subshell_id="sub")
    found = ledger.find(request.id)
    assert (found.subshell, found.kind, found.channel) == ("sub", "execute_request", "shell")
    assert found.message.content == {}


def test_a_reply_on_another_channel_answers_nothing():
    ledger = Ledger()
    request = asked(ledger)
    replied(ledger, request, "control")
    assert not ledger.find(request.id).replied


def test_what_nobody_asked_opens_nothing():
    ledger = Ledger()
    stranger = Message.of("execute_request", {})
    status(ledger, stranger, "busy")
    replied(ledger, stranger)
    assert ledger.open_requests() == ()


def test_the_oldest_is_forgotten_beyond_a_number():
    ledger = Ledger()
    requests = [asked(ledger) for _ in range(10_001)]
    assert ledger.find(requests[0].id) is None
    assert ledger.find(requests[-1].id) is not None


def test_comms_are_open_until_either_side_closes_them():
    ledger = Ledger()
    for comm in ("theirs", "ours", "x" * 1000, 7):
        ledger.outward("iopub", Message.of("comm_open", {"comm_id": comm}))
    ledger.inward("shell", Message.of("comm_open", {"comm_id": "client's"}))
    assert ledger.open_comms() == ("theirs", "ours", "client's")
    ledger.inward("shell", Message.of("comm_close", {"comm_id": "theirs"}))
    ledger.outward("iopub", Message.of("comm_close", {"comm_id": "client's"}))
    assert ledger.open_comms() == ("ours",)
    ledger.clear()
    assert ledger.open_comms() == ()
