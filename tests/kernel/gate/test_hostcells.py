"""Host cells between a bare client and a kernel that says what a test wants, hostile ones too."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cellblock_engine import ExecutedCell, Provenance
from cellblock_kernel.gate.farewell import farewells
from cellblock_kernel.gate.hostcells import HostCells
from cellblock_kernel.gate.ledger import Ledger
from cellblock_kernel.gate.messages import DELIMITER, Signer
from cellblock_kernel.gate.operation import Failure
from cellblock_kernel.gate.options import Successor
from cellblock_kernel.gate.recorder import Recorder
from support.relays import BACK_KEY, FRONT_KEY, WAIT_MS, message

# What is run on the host: a cell's second word, which it also notes to have been done.
HOST = r"""
import json, os, sys, time
text = sys.stdin.read()
with open(sys.argv[1], "a") as done:
    print(json.dumps([text, sys.argv[2:], os.getcwd(), os.listdir("/proc/self/fd")]), file=done)
def say(*line):
    print(json.dumps(line), flush=True)
word = text.split()[1]
if word == "show":
    say("stream", {"name": "stdout", "text": "said"})
    say("display_data", {"data": {"text/plain": "shown"}, "metadata": {}})
elif word == "fail":
    say("error", {"ename": "InvalidInput", "evalue": "no"})
    sys.exit(1)
elif word == "wait":
    say("stream", {"name": "stdout", "text": "waits"})
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(130)
elif word == "commit":
    with os.fdopen(int(sys.argv[-1].partition("=")[2])) as told:
        say("stream", {"name": "stdout", "text": told.read()})
    say("committed", {})
elif word == "ask":
    say("ask", {"prompt": "sure? "})
    with os.fdopen(int(sys.argv[-2].partition("=")[2])) as answers:
        say("stream", {"name": "stdout", "text": repr(json.loads(answers.readline()))})
elif word == "succeed":
    say("successor", {"image": "other", "argv": ["python3", "-f", "{connection_file}"]})
elif word == "fail-and-succeed":
    say("successor", {"image": "other", "argv": []})
    sys.exit(1)
elif word == "odd":
    print("no line of ours\n[]\n[1, 2, 3]\n[\"comm_open\", {}]\n7\n[[1], {}]\n[\"stream\", 1]")
elif word == "die":
    sys.exit(9)
elif word == "late":
    os.kill(os.getpid(), 14)
elif word == "flood":
    while True:
        print("x" * 65536)
"""
QUIET_MS = 300


@dataclass(frozen=True)
class Said:
    """A message as one side receives it."""

    identities: list[bytes]
    header: dict[str, Any]
    parent: dict[str, Any]
    metadata: dict[str, Any]
    content: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.header["msg_type"]

    @classmethod
    def read(cls, frames, key):
        at = frames.index(DELIMITER)
        parts = frames[at + 2 : at + 6]
        assert Signer(key).verifies(frames[at + 1], parts)
        return cls(frames[:at], *map(json.loads, parts))


class Scene:
    """A relay with the rule, the front end's side and the kernel's."""

    def __init__(self, make_rig, tmp_path):
        self.done_file = tmp_path / "done"
        ledger, self.recorder = Ledger(), Recorder("a.ipynb")
        self.rule = HostCells(
            ledger, self.recorder, [sys.executable, "-c", HOST, str(self.done_file)]
        )
        self.rig = make_rig(rules=[ledger, self.rule, self.recorder])
        self.rule.serve("own", self.rig.relay)
        self.kernel, self.client = self.rig.kernel(), self.rig.client()
        self.kernel.welcome()
        assert self.heard().kind == "iopub_welcome"

    def ask(self, code, *, kind="execute_request", channel="shell", subshell=None, **content):
        """Ask as a front end does; return the request's header."""
        frames = message(FRONT_KEY, kind, {"code": code, **content}, subshell_id=subshell)
        self.client[channel].send_multipart(frames)
        return json.loads(frames[2])

    def asked(self, channel="shell"):
        """Return what the kernel is asked next."""
        return Said.read(self.kernel[channel].recv_multipart(), BACK_KEY)

    def nothing_asked(self, channel="shell"):
        return not self.kernel[channel].poll(QUIET_MS)

    def publish(self, request, kind, content):
        self.kernel.publish(kind, content, request.header)

    def reply(self, request, content, kind="execute_reply", channel="shell"):
        frames = message(BACK_KEY, kind, content, request.header)
        self.kernel[channel].send_multipart([*request.identities, *frames])

    def answer(self, request, status="ok", count=1):
        """Do as ipykernel does with a cell that does nothing."""
        self.publish(request, "status", {"execution_state": "busy"})
        if status != "aborted":
            code = request.content["code"]
            self.publish(request, "execute_input", {"code": code, "execution_count": count})
        self.reply(request, {"status": status, "execution_count": count, "payload": []})
        self.publish(request, "status", {"execution_state": "idle"})

    def heard(self, channel="iopub"):
        """Return what the front end receives next."""
        return Said.read(self.client[channel].recv_multipart(), FRONT_KEY)

    def nothing_heard(self, channel="shell"):
        return not self.client[channel].poll(QUIET_MS)

    def told(self, header):
        """Return what is published for a request, to its idle."""
        said = []
        while True:
            one = self.heard()
            if one.parent.get("msg_id") != header["msg_id"]:
                continue
            said.append((one.kind, one.content))
            if one.content == {"execution_state": "idle"}:
                return said

    def await_held(self, count, subshell=None):
        """Wait until so many messages wait behind the cell: what comes later is not aborted."""
        deadline = time.monotonic() + WAIT_MS / 1000
        while (cell := self.rule._cells.get(subshell)) is None or len(cell.held) < count:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def done(self):
        """Return the texts that were carried out."""
        if not self.done_file.exists():
            return []
        return [json.loads(line)[0] for line in self.done_file.read_text().splitlines()]

    def begun(self):
        """Wait until one more process says that it waits."""
        while (one := self.heard()).content.get("text") != "waits":
            assert one.kind in ("status", "execute_input")


@pytest.fixture
def scene(make_rig, tmp_path):
    made = Scene(make_rig, tmp_path)
    yield made
    made.rig.halt()
    made.rule.close()


BUSY, IDLE = ("status", {"execution_state": "busy"}), ("status", {"execution_state": "idle"})


def shown(code, count=1):
    return ("execute_input", {"code": code, "execution_count": count})


def error(name, line=""):
    text = ": ".join(filter(None, (name, line)))
    return ("error", {"ename": name, "evalue": line, "traceback": [text]})


def test_a_cell_is_carried_out_in_its_place(scene):
    code = "\n  %container show this\n"
    header = scene.ask(code, store_history=True, user_expressions={"a": "1"})
    asked = scene.asked()
    assert asked.header == header
    assert asked.content == {"code": "", "store_history": True, "user_expressions": {"a": "1"}}
    scene.answer(asked, count=7)
    assert scene.told(header) == [
        BUSY,
        shown(code, 7),
        ("stream", {"name": "stdout", "text": "said"}),
        ("display_data", {"data": {"text/plain": "shown"}, "metadata": {}}),
        IDLE,
    ]
    reply = scene.heard("shell")
    assert reply.parent == header
    assert reply.content == {"status": "ok", "execution_count": 7, "payload": []}
    ((text, words, cwd, fds),) = map(json.loads, scene.done_file.read_text().splitlines())
    assert (text, words[:2], cwd) == (code, ["--container=own", "--within=600"], "/")
    given = {word.partition("=")[2] for word in words[2:]}
    # Its own two are the file of what is done, and this list.
    assert sorted({*fds} - given)[:3] == ["0", "1", "2"]
    assert len(fds) == 7


@pytest.mark.parametrize("code", ["%container show", "%%container show\n", "\n\n %container show"])
def test_what_is_a_host_cell(scene, code):
    scene.ask(code)
    assert scene.asked().content["code"] == ""


@pytest.mark.parametrize(
    "code", ["", "x = 1\n%container show", "%containers show", "# %container show", "!%container"]
)
def test_what_is_none_passes_as_it_is(scene, code):
    scene.ask(code)
    assert scene.asked().content["code"] == code


def test_python_is_given_what_it_counts(scene):
    scene.client.ask("control", "kernel_info_request", {})
    info = {"language_info": {"name": "python"}}
    scene.reply(scene.asked("control"), info, "kernel_info_reply", "control")
    assert scene.heard("control").content == info
    scene.ask("%container show")
    assert scene.asked().content["code"] == "# %container"


def test_a_kernel_that_shows_no_empty_cells(scene):
    header = scene.ask("%container show")
    asked = scene.asked()
    scene.reply(asked, {"status": "ok", "execution_count": 3})
    scene.publish(asked, "status", {"execution_state": "idle"})
    assert scene.told(header)[0] == shown("%container show", 3)


def test_a_silent_cell_shows_its_output_only(scene):
    header = scene.ask("%container show", silent=True)
    asked = scene.asked()
    scene.reply(asked, {"status": "ok"})
    scene.publish(asked, "status", {"execution_state": "idle"})
    assert [kind for kind, _ in scene.told(header)] == ["stream", "display_data", "status"]


def test_a_silent_failure_aborts_nothing(scene):
    header = scene.ask("%container fail", silent=True)
    scene.ask("later")
    scene.answer(scene.asked())
    assert error("InvalidInput", "no") in scene.told(header)
    assert scene.asked().content["code"] == "later"


class TestTurn:
    def test_it_waits_for_what_was_asked_before_and_later_cells_wait_for_it(self, scene):
        scene.ask("sleep")
        header = scene.ask("%container show")
        scene.ask("later")
        before, own = scene.asked(), scene.asked()
        assert scene.nothing_asked()
        assert scene.done() == []
        scene.answer(before)
        scene.answer(own)
        assert scene.told(header)[-1] == IDLE
        assert scene.asked().content["code"] == "later"
        assert scene.done() == ["%container show"]

    def test_several_in_a_row(self, scene):
        headers = [scene.ask(f"%container show {n}") for n in range(3)]
        scene.ask("later")
        for n, header in enumerate(headers):
            scene.answer(scene.asked(), count=n)
            assert scene.told(header)[-1] == IDLE
            assert scene.heard("shell").parent == header
        assert scene.asked().content["code"] == "later"
        assert scene.done() == [f"%container show {n}" for n in range(3)]

    def test_other_messages_of_the_shell_keep_their_places(self, scene):
        scene.ask("%container show")
        for kind in ("comm_msg", "complete_request"):
            scene.ask("", kind=kind)
        own = scene.asked()
        assert scene.nothing_asked()
        scene.answer(own)
        assert [scene.asked().kind for _ in range(2)] == ["comm_msg", "complete_request"]

    def test_control_stdin_heartbeat_and_other_shells_do_not_wait(self, scene):
        scene.ask("%container wait")
        scene.answer(scene.asked())
        scene.begun()
        for channel in ("control", "stdin"):
            scene.client.ask(channel, "any", {})
            scene.reply(scene.asked(channel), {}, "any", channel)
            assert scene.heard(channel).kind == "any"
        scene.client["hb"].send(b"ping")
        scene.kernel["hb"].send_multipart(scene.kernel["hb"].recv_multipart())
        assert scene.client["hb"].recv() == b"ping"
        scene.ask("other", subshell="sub")
        asked = scene.asked()
        assert asked.content["code"] == "other"
        scene.answer(asked)
        assert scene.heard("shell").parent["msg_id"] == asked.header["msg_id"]

    def test_a_subshell_has_turns_of_its_own(self, scene):
        scene.ask("main 1")
        header = scene.ask("%container show", subshell="sub")
        scene.ask("main 2")
        _, own, main = scene.asked(), scene.asked(), scene.asked()
        assert main.content["code"] == "main 2"
        scene.answer(own)
        assert scene.told(header)[-1] == IDLE

    def test_what_is_held_is_bounded_and_the_rest_waits_with_the_front_end(self, scene):
        scene.ask("%container show")
        own = scene.asked()
        text = "x" * (1 << 20)
        for n in range(100):
            scene.ask(f"{n} {text}")
        time.sleep(1)
        scene.rig.halt()
        assert scene.rule._held_bytes < 70 << 20
        scene.rig.start_again()
        scene.answer(own)
        assert [int(scene.asked().content["code"].split()[0]) for _ in range(100)] == [*range(100)]


class TestFailure:
    def test_it_ends_the_cell_and_aborts_what_is_queued(self, scene):
        header = scene.ask("%container fail")
        scene.ask("", kind="complete_request")
        later = [scene.ask("later"), scene.ask("%container show")]
        scene.await_held(3)
        scene.answer(scene.asked(), count=4)
        failure = error("InvalidInput", "no")
        assert scene.told(header) == [BUSY, shown("%container fail", 4), failure, IDLE]
        reply = scene.heard("shell")
        assert reply.content == {
            "status": "error",
            "execution_count": 4,
            "payload": [],
            "user_expressions": {},
            **failure[1],
        }
        for each in later:
            assert scene.told(each) == [BUSY, IDLE]
            reply = scene.heard("shell")
            assert (reply.kind, reply.parent) == ("execute_reply", each)
            assert reply.content == {"status": "aborted"}
        assert scene.asked().kind == "complete_request"
        scene.ask("after")
        assert scene.asked().content["code"] == "after"
        assert scene.done() == ["%container fail"]

    def test_not_where_the_cell_may_fail(self, scene):
        scene.ask("%container fail", stop_on_error=False)
        scene.ask("later")
        scene.answer(scene.asked())
        assert scene.heard("shell").content["status"] == "error"
        assert scene.asked().content["code"] == "later"

    @pytest.mark.parametrize(("status", "stops"), [("aborted", False), ("error", True)])
    def test_what_the_kernel_did_not_come_to_is_not_done_nor_what_is_queued(
        self, scene, status, stops
    ):
        header = scene.ask("%container show", stop_on_error=stops)
        later = scene.ask("later")
        scene.await_held(1)
        scene.answer(scene.asked(), status)
        assert scene.told(header)[-1] == IDLE
        assert scene.heard("shell").content["status"] == status
        assert scene.told(later) == [BUSY, IDLE]
        assert scene.heard("shell").content == {"status": "aborted"}
        assert scene.nothing_asked()
        assert scene.done() == []

    @pytest.mark.parametrize(
        ("word", "name", "line"),
        [
            ("die", "HostCellFailed", "status 9"),
            ("late", "TimedOut", "longer than 600 s"),
            ("flood", "OutputRefused", "64 MiB"),
        ],
    )
    def test_processes_that_end_otherwise(self, scene, word, name, line):
        scene.ask(f"%container {word}")
        scene.answer(scene.asked())
        content = scene.heard("shell").content
        assert (content["status"], content["ename"]) == ("error", name)
        assert line in content["evalue"]

    def test_lines_that_mean_nothing_are_left_out(self, scene):
        header = scene.ask("%container odd")
        scene.answer(scene.asked())
        assert scene.told(header) == [BUSY, shown("%container odd"), IDLE]

    def test_a_process_that_does_not_start(self, scene):
        scene.rule._command = ["/nowhere"]
        scene.ask("%container show")
        scene.answer(scene.asked())
        assert scene.heard("shell").content["ename"] == "OSError"


class TestInterrupt:
    def test_by_message_it_ends_the_cell_and_is_answered(self, scene):
        header = scene.ask("%container wait")
        later = scene.ask("later")
        scene.await_held(1)
        scene.answer(scene.asked())
        scene.begun()
        interrupt = scene.ask("", kind="interrupt_request", channel="control")
        reply = scene.heard("control")
        assert (reply.kind, reply.parent) == ("interrupt_reply", interrupt)
        assert reply.content == {"status": "ok"}
        assert scene.told(header)[-2:] == [error("KeyboardInterrupt"), IDLE]
        assert scene.heard("shell").content["ename"] == "KeyboardInterrupt"
        assert scene.told(later) == [BUSY, IDLE]
        assert scene.nothing_asked("control")

    def test_it_is_the_kernels_where_nothing_goes_on_here(self, scene):
        scene.ask("%container wait")
        scene.asked()
        scene.ask("", kind="interrupt_request", channel="control")
        assert scene.asked("control").kind == "interrupt_request"
        assert not scene.rule.interrupt()


def test_at_the_kernels_end_the_process_ends_and_nothing_begins(scene):
    scene.ask("%container wait")
    scene.answer(scene.asked())
    scene.begun()
    scene.ask("%container show", subshell="sub")
    waiting = scene.asked()
    scene.rig.halt()
    process = scene.rule._cells[None].operation._process
    begun = time.monotonic()
    scene.rule.close()
    assert time.monotonic() - begun < 1
    assert process.returncode == -9
    scene.answer(waiting)
    scene.rig.relay.drain()
    assert scene.nothing_heard()  # no reply that nobody gave
    assert scene.done() == ["%container wait"]


def test_a_kernel_that_goes_before_it_is_idle_lets_nothing_begin_in_the_next_ones_place(scene):
    scene.ask("%container show")
    request = scene.asked()
    scene.publish(request, "status", {"execution_state": "busy"})
    scene.reply(request, {"status": "ok", "execution_count": 1, "payload": []})
    deadline = time.monotonic() + WAIT_MS / 1000
    while scene.rule._cells[None].reply is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    scene.rig.halt()
    scene.rule.abandon(Failure("KernelSwapped", "gone"))
    for channel, said in farewells(scene.rule._ledger):
        scene.rig.relay.pass_outward(channel, said, scene.rule._ledger)
    scene.rig.relay.deliver()
    assert scene.heard("shell").content == {"status": "aborted"}
    assert not scene.rule._cells
    assert scene.done() == []


def test_before_there_is_a_container_nothing_is_a_host_cell(make_rig):
    ledger = Ledger()
    rig = make_rig(rules=[ledger, HostCells(ledger, Recorder(), ["/nowhere"])])
    kernel, client = rig.kernel(), rig.client()
    client.ask("shell", "execute_request", {"code": "%container show"})
    assert kernel.answer("shell", "reply") == {"code": "%container show"}


class TestHostileKernels:
    """It can hold a cell up. It cannot cause, repeat, change or hasten one."""

    def test_it_answers_before_the_cells_turn(self, scene):
        scene.ask("before")
        scene.ask("%container show")
        before, own = scene.asked(), scene.asked()
        scene.answer(own)
        assert scene.nothing_heard()
        assert scene.done() == []
        scene.answer(before)
        assert scene.heard("shell").parent == before.header
        assert scene.heard("shell").parent == own.header
        assert scene.done() == ["%container show"]

    def test_it_says_ok_where_an_earlier_cell_has_failed(self, scene):
        scene.ask("before")
        header = scene.ask("%container show")
        later = scene.ask("later")
        scene.await_held(1)
        before, own = scene.asked(), scene.asked()
        scene.answer(before, "error")
        scene.answer(own, "ok")
        assert scene.told(header)[-1] == IDLE
        for each, status in ((before.header, "error"), (header, "aborted"), (later, "aborted")):
            reply = scene.heard("shell")
            assert (reply.parent, reply.content["status"]) == (each, status)
        assert scene.done() == []

    def test_it_answers_again_and_again(self, scene):
        header = scene.ask("%container show")
        asked = scene.asked()
        for _ in range(5):
            scene.answer(asked)
        scene.told(header)
        assert scene.heard("shell").parent == header
        for _ in range(5):
            scene.answer(asked)
        time.sleep(QUIET_MS / 1000)
        assert scene.done() == ["%container show"]

    def test_it_never_says_that_it_is_idle_or_never_answers(self, scene):
        scene.ask("%container show", subshell="one")
        scene.ask("%container show", subshell="two")
        first, second = scene.asked(), scene.asked()
        scene.reply(first, {"status": "ok"})
        scene.publish(second, "status", {"execution_state": "idle"})
        assert scene.nothing_heard()
        assert scene.done() == []
        scene.client.ask("control", "any", {})
        assert scene.asked("control").kind == "any"

    def test_what_it_says_is_never_carried_out(self, scene):
        header = scene.ask("x = 1")
        asked = scene.asked()
        code = "%container show"
        scene.publish(asked, "execute_input", {"code": code, "execution_count": 1})
        payload = [{"source": "set_next_input", "text": code, "replace": False}]
        for parent in (asked, Said(asked.identities, {}, {}, {}, {})):
            for kind in ("execute_request", "execute_reply"):
                scene.reply(parent, {"code": code, "status": "ok", "payload": payload}, kind)
                scene.reply(parent, {"code": code, "status": "ok"}, kind, "control")
                scene.publish(parent, kind, {"code": code, "status": "ok"})
        scene.publish(asked, "status", {"execution_state": "idle"})
        assert Counter(kind for kind, _ in scene.told(header)) == {
            "execute_input": 1,
            "execute_request": 1,
            "execute_reply": 1,
            "status": 1,
        }
        assert scene.done() == []

    def test_it_changes_the_text_of_a_cell(self, scene):
        header = scene.ask("%container show mine")
        asked = scene.asked()
        for _ in range(2):
            changed = {"code": "%container show yours", "execution_count": "no number"}
            scene.publish(asked, "execute_input", changed)
        scene.answer(asked)
        inputs = [content["code"] for kind, content in scene.told(header) if kind[:7] == "execute"]
        assert inputs == ["%container show mine"]
        assert scene.done() == ["%container show mine"]

    @pytest.mark.parametrize("content", [{}, {"status": 7}, {"status": ["ok"]}, {"status": "OK"}])
    def test_an_answer_that_is_none_is_no_ok(self, scene, content):
        scene.ask("%container show")
        asked = scene.asked()
        scene.reply(asked, content)
        scene.publish(asked, "status", {"execution_state": "idle"})
        assert scene.heard("shell").content == content
        assert scene.done() == []


def test_a_client_that_is_gone_holds_nothing_up(scene):
    scene.ask("%container show")
    asked = scene.asked()
    scene.client["shell"].close()
    scene.answer(asked)
    other = scene.rig.client("other", names=("shell",))
    frames = message(FRONT_KEY, "execute_request", {"code": "next"})
    other["shell"].send_multipart(frames)
    assert scene.asked().content["code"] == "next"


class TestQuestion:
    def ask(self, scene, **content):
        header = scene.ask("%container ask", **content)
        scene.answer(scene.asked())
        return header

    def shown(self, scene, header):
        (said,) = [c["text"] for kind, c in scene.told(header) if kind == "stream"]
        return said

    def test_it_is_asked_as_the_kernel_would_and_the_kernel_gets_no_answer(self, scene):
        header = self.ask(scene, allow_stdin=True)
        question = scene.heard("stdin")
        assert (question.kind, question.parent) == ("input_request", header)
        assert question.content == {"prompt": "sure? ", "password": False}
        scene.client.ask("stdin", "input_reply", {"value": "yes \u00e9"})
        assert self.shown(scene, header) == "'yes \u00e9'"
        assert scene.nothing_asked("stdin")
        # The next answer is the kernel's.
        scene.client.ask("stdin", "input_reply", {"value": "mine"})
        assert scene.asked("stdin").content == {"value": "mine"}

    @pytest.mark.parametrize("value", [None, 7, ["x"]])
    def test_an_answer_that_is_no_text_is_empty(self, scene, value):
        header = self.ask(scene, allow_stdin=True)
        scene.heard("stdin")
        scene.client.ask("stdin", "input_reply", {"value": value})
        assert self.shown(scene, header) == "''"

    @pytest.mark.parametrize("content", [{}, {"allow_stdin": False}])
    def test_a_front_end_without_input_is_not_asked(self, scene, content):
        header = self.ask(scene, **content)
        assert self.shown(scene, header) == "None"
        assert scene.nothing_heard("stdin")

    def test_another_client_does_not_answer(self, scene):
        header = self.ask(scene, allow_stdin=True)
        scene.heard("stdin")
        other = scene.rig.client("other", names=("stdin",))
        other.ask("stdin", "input_reply", {"value": "no"})
        assert scene.asked("stdin").content == {"value": "no"}
        scene.client.ask("stdin", "input_reply", {"value": "yes"})
        assert self.shown(scene, header) == "'yes'"

    def test_what_the_kernel_asks_meanwhile_waits_and_an_answer_to_it_is_none(self, scene):
        header = self.ask(scene, allow_stdin=True)
        question = scene.heard("stdin")
        asked = scene.ask("other", subshell="sub", allow_stdin=True)
        kernels = {"prompt": "go on? ", "password": False}
        scene.reply(scene.asked(), kernels, "input_request", "stdin")
        assert scene.nothing_heard("stdin")
        for parent, value in (({"msg_id": "another's"}, "y"), (question.header, "n")):
            frames = message(FRONT_KEY, "input_reply", {"value": value}, parent)
            scene.client["stdin"].send_multipart(frames)
        assert scene.asked("stdin").content == {"value": "y"}
        assert self.shown(scene, header) == "'n'"
        late = scene.heard("stdin")
        assert (late.content, late.parent) == (kernels, asked)

    def test_of_what_the_kernel_asks_meanwhile_no_more_is_kept_than_there_is_room_for(self, scene):
        header = self.ask(scene, allow_stdin=True)
        scene.heard("stdin")
        scene.ask("other", subshell="sub", allow_stdin=True)
        request = scene.asked()
        for mark in "abc":
            scene.reply(request, {"prompt": mark * 600_000}, "input_request", "stdin")
        assert scene.nothing_heard("stdin")
        scene.client.ask("stdin", "input_reply", {"value": "y"})
        assert self.shown(scene, header) == "'y'"
        assert scene.heard("stdin").content["prompt"][0] == "a"
        assert scene.nothing_heard("stdin")

    def test_a_long_answer_arrives_cut(self, scene):
        header = self.ask(scene, allow_stdin=True)
        scene.heard("stdin")
        scene.client.ask("stdin", "input_reply", {"value": "\U0001f40b" * 9000})
        assert set(self.shown(scene, header)) == {"'", "\U0001f40b"}

    def test_an_interrupt_ends_the_wait(self, scene):
        header = self.ask(scene, allow_stdin=True)
        scene.heard("stdin")
        scene.ask("", kind="interrupt_request", channel="control")
        assert error("KeyboardInterrupt") in scene.told(header)
        scene.client.ask("stdin", "input_reply", {"value": "late"})
        assert scene.asked("stdin").content == {"value": "late"}


class TestSuccession:
    @pytest.fixture
    def wanted(self, scene):
        found = []
        scene.rule.succeed = lambda successor, end: found.append((successor, end))
        return found

    def hand_over(self, scene, wanted):
        header = scene.ask("%container succeed", allow_stdin=True)
        later = scene.ask("later")
        scene.answer(scene.asked())
        deadline = time.monotonic() + WAIT_MS / 1000
        while not wanted:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        scene.await_held(1)
        return header, later

    def test_the_cell_ends_when_the_other_kernel_has_taken_over(self, scene, wanted):
        header, _ = self.hand_over(scene, wanted)
        assert scene.nothing_heard()
        ((successor, end),) = wanted
        assert successor == Successor("other", ("python3", "-f", "{connection_file}"))
        scene.rig.halt()
        end(None)
        end(Failure("Late", "it is over"))  # says nothing more
        scene.rig.start_again()
        assert scene.told(header) == [BUSY, shown("%container succeed"), IDLE]
        assert scene.heard("shell").content["status"] == "ok"
        assert scene.asked().content["code"] == "later"

    def test_where_it_cannot_the_cell_fails_and_what_is_behind_is_aborted(self, scene, wanted):
        header, later = self.hand_over(scene, wanted)
        ((_, end),) = wanted
        scene.rig.halt()
        end(Failure("KernelNotReady", "no"))
        scene.rig.start_again()
        assert scene.told(header)[-2:] == [error("KernelNotReady", "no"), IDLE]
        assert scene.told(later) == [BUSY, IDLE]
        assert [scene.heard("shell").content["status"] for _ in range(2)] == ["error", "aborted"]

    def test_when_another_is_faster_it_ends_as_all_that_is_open(self, scene, wanted):
        header, _ = self.hand_over(scene, wanted)
        ((_, end),) = wanted
        scene.rig.halt()
        scene.rule.abandon(Failure("KernelSwapped", "gone"))
        end(None)
        scene.rig.start_again()
        assert scene.told(header)[-2:] == [error("KernelSwapped", "gone"), IDLE]
        assert scene.heard("shell").content["ename"] == "KernelSwapped"

    def test_an_interrupt_does_not_reach_the_kernel(self, scene, wanted):
        self.hand_over(scene, wanted)
        scene.ask("", kind="interrupt_request", channel="control")
        assert scene.heard("control").content == {"status": "ok"}
        assert scene.nothing_asked("control")

    def test_a_cell_that_failed_has_no_successor(self, scene, wanted):
        scene.ask("%container fail-and-succeed")
        scene.answer(scene.asked())
        assert scene.heard("shell").content["ename"] == "HostCellFailed"
        assert wanted == []

    def test_where_nothing_can_take_over_the_cell_fails(self, scene):
        scene.ask("%container succeed")
        scene.answer(scene.asked())
        assert scene.heard("shell").content["ename"] == "Unsupported"


class TestRecord:
    """What was executed, for a commit to tell."""

    def executed(self, scene, code, *, count, status="ok", **content):
        """Let a cell be executed; whatever the kernel says beside its answer."""
        header = scene.ask(code, **content)
        scene.answer(scene.asked(), status, count)
        scene.told(header)
        assert scene.heard("shell").kind == "execute_reply"

    def committed(self, scene):
        """Commit; return what was told of."""
        header = scene.ask("%container commit")
        scene.answer(scene.asked())
        (said,) = [c["text"] for kind, c in scene.told(header) if kind == "stream"]
        assert scene.heard("shell").content["status"] == "ok"
        return Provenance.decode(said)

    def test_cells_since_the_last_commit(self, scene):
        self.executed(scene, "a = 1", count=1)
        self.executed(scene, "1 / 0", count=2, status="error")
        self.executed(scene, "never", count=3, status="aborted")
        self.executed(scene, "quiet", count=3, silent=True)
        self.executed(scene, "untold", count=3, store_history=False)
        self.executed(scene, " \n", count=3)
        looked = scene.ask("%container show")
        scene.answer(scene.asked(), count=3)
        scene.told(looked)
        scene.heard("shell")
        told = self.committed(scene)
        assert told == Provenance("a.ipynb", (ExecutedCell(1, "a = 1"), ExecutedCell(2, "1 / 0")))
        self.executed(scene, "b = 2", count=4)
        assert self.committed(scene).cells == (ExecutedCell(4, "b = 2"),)
        assert self.committed(scene).cells == ()

    def test_a_commit_that_fails_tells_nobody(self, scene):
        self.executed(scene, "a = 1", count=1)
        header = scene.ask("%container fail")
        scene.answer(scene.asked())
        scene.told(header)
        scene.heard("shell")
        assert self.committed(scene).cells == (ExecutedCell(1, "a = 1"),)

    def test_a_kernel_cannot_add_a_cell_or_change_one(self, scene):
        header = scene.ask("a = 1")
        request = scene.asked()
        for parent in (request, replace(request, header={"msg_id": "made up"})):
            shown = {"code": "forged()", "execution_count": 8}
            scene.publish(parent, "execute_input", shown)
            scene.publish(parent, "execute_request", {"code": "forged()"})
        made_up = replace(request, header={"msg_id": "made up"})
        scene.reply(made_up, {"status": "ok", "execution_count": 9, "code": "forged()"})
        scene.reply(request, {"code": "forged()"}, kind="execute_request")
        scene.answer(request, count=1)
        scene.reply(request, {"status": "ok", "execution_count": 10})
        scene.told(header)
        for _ in range(4):
            scene.heard("shell")
        assert self.committed(scene).cells == (ExecutedCell(1, "a = 1"),)
