"""The relay between bare sockets: what passes, what waits, what is dropped."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from contextlib import suppress

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellblock_kernel.gate.connection import CHANNELS, Connection
from cellblock_kernel.gate.guard import Guard
from cellblock_kernel.gate.ledger import Ledger
from cellblock_kernel.gate.messages import DELIMITER, Signer
from cellblock_kernel.gate.relay import Relay
from support.relays import BACK_KEY, FRONT_KEY, WAIT_MS, Kernel, message, opened

SIGNED = ("shell", "control", "stdin")


def settled(kernel, client) -> None:
    """Both subscriptions have arrived: the client has its welcome."""
    kernel.welcome()
    assert client.take("iopub") == ("iopub_welcome", {"subscription": ""})


def exchange(kernel, client, name="control") -> None:
    client.ask(name, "request", {"n": 1})
    assert kernel.answer(name, "reply") == {"n": 1}
    assert client.take(name) == ("reply", {"n": 1})


class Marks:
    """A rule that says by its letter that something has met it."""

    def __init__(self, letter: str) -> None:
        self.letter = letter

    def inward(self, channel, message):
        return [message.but(content={"met": message.content.get("met", "") + self.letter})]

    outward = inward


class Twice(Marks):
    """Lets nothing pass by itself, and everything twice by the way that is given to it."""

    def inward(self, channel, message):
        for _ in range(2):
            self.relay.pass_inward(channel, message, self)
        return ()

    def outward(self, channel, message):
        for _ in range(2):
            self.relay.pass_outward(channel, message, self)
        return ()


def test_rules_are_met_in_their_order(make_rig):
    rig = make_rig(rules=[Marks("1"), Marks("2")])
    kernel, client = rig.kernel(), rig.client()
    settled(kernel, client)
    client.ask("shell", "request", {})
    assert kernel.answer("shell", "reply") == {"met": "21"}
    assert client.take("shell") == ("reply", {"met": "2112"})
    kernel.publish("status", {})
    assert client.take("iopub") == ("status", {"met": "12"})


class Repeats(Marks):
    """A rule that says again what it has read, as deep as it was."""

    def outward(self, channel, message):
        return [message.but(content={"deep": message.content})]


def test_what_is_too_deep_to_be_said_again_is_lost_alone(make_rig):
    rig = make_rig(rules=[Repeats("")])
    kernel, client = rig.kernel(), rig.client()
    settled(kernel, client)
    limit = sys.getrecursionlimit()
    for depth in range(limit - 100, limit + 10):
        raw = b'{"x":' * depth + b"1" + b"}" * depth
        parts = message(BACK_KEY, "display_data", {})
        parts[5] = raw
        parts[1] = Signer(BACK_KEY).sign(parts[2:])
        kernel["iopub"].send_multipart([b"topic", *parts])
    kernel.publish("status", {"at": "last"})
    while b"last" not in client["iopub"].recv_multipart()[-1]:
        pass


def test_what_a_rule_passes_by_itself_meets_the_rules_beyond(make_rig):
    twice = Twice("")
    rig = make_rig(rules=[Marks("1"), twice, Marks("2")])
    twice.relay = rig.relay
    kernel, client = rig.kernel(), rig.client()
    settled(kernel, client)
    client.ask("control", "request", {})
    for _ in range(2):
        assert kernel.answer("control", "reply") == {"met": "21"}
    for _ in range(4):
        assert client.take("control") == ("reply", {"met": "2112"})


@pytest.mark.parametrize("name", SIGNED)
def test_requests_and_replies_pass_with_each_sides_own_signature(rig, name):
    kernel, client = rig.kernel(), rig.client()
    settled(kernel, client)
    exchange(kernel, client, name)


def test_a_paused_channel_is_not_read_until_it_is_resumed(rig):
    kernel, client = rig.kernel(), rig.client()
    exchange(kernel, client, "shell")
    rig.halt()
    rig.relay.pause("shell")
    rig.start_again()
    client.ask("shell", "request", {"n": 2})
    exchange(kernel, client, "control")
    assert not kernel["shell"].poll(300)
    rig.halt()
    rig.relay.resume("shell")
    rig.start_again()
    assert kernel.answer("shell", "reply") == {"n": 2}


def test_the_heartbeat_is_the_kernels_own(rig):
    kernel, client = rig.kernel(), rig.client()
    client["hb"].send(b"ping")
    frames = kernel["hb"].recv_multipart()
    assert frames[-1] == b"ping"
    kernel["hb"].send_multipart(frames)
    assert client["hb"].recv() == b"ping"


def test_buffers_pass_as_they_are(rig):
    kernel, client = rig.kernel(), rig.client()
    settled(kernel, client)
    buffers = [b"", b"\0" * 100_000, DELIMITER]
    kernel["iopub"].send_multipart([*message(BACK_KEY, "comm_msg", {}), *buffers])
    assert client["iopub"].recv_multipart()[-3:] == buffers


def test_requests_before_the_kernel_is_there_wait(rig):
    client = rig.client()
    for number in range(50):
        client.ask("shell", "execute_request", {"n": number})
    time.sleep(0.1)
    kernel = rig.kernel()
    assert [kernel.answer("shell", "reply")["n"] for _ in range(50)] == list(range(50))


def test_no_request_reaches_the_kernel_before_the_gates_subscription(rig):
    client = rig.client()
    client.ask("shell", "execute_request", {})
    kernel = Kernel(rig.context, rig.back)
    kernel["iopub"].unbind(rig.back.address("iopub"))
    rig.start()
    assert not kernel["shell"].poll(400)  # longer than a kernel without welcomes has
    kernel["iopub"].bind(rig.back.address("iopub"))
    kernel.welcome()
    kernel.answer("shell", "reply")


def test_a_kernel_without_welcomes_gives_none(rig):
    kernel, client = rig.kernel(), rig.client()
    exchange(kernel, client, "shell")
    kernel.publish("status", {})
    assert client.take("iopub")[0] == "status"


def test_each_subscription_is_welcomed_by_its_topic(rig):
    kernel, client = rig.kernel(), rig.client()
    settled(kernel, client)
    late = rig.client("late", topic=b"top")
    identities, kind, content = opened(FRONT_KEY, late["iopub"].recv_multipart())
    assert (identities, kind, content) == ([b"top"], "iopub_welcome", {"subscription": "top"})
    kernel.publish("status", {})
    assert late.take("iopub")[0] == "status"


def test_two_clients_get_their_own_replies_and_questions(rig):
    kernel = rig.kernel()
    clients = [rig.client(name) for name in ("one", "two")]
    for number, client in enumerate(clients):
        client.ask("shell", "execute_request", {"n": number})
        client.ask("stdin", "hello", {})
        kernel["stdin"].recv_multipart()  # a client is known once it has connected
    for _ in clients:
        identities, _, content = opened(BACK_KEY, kernel["shell"].recv_multipart())
        kernel["stdin"].send_multipart([*identities, *message(BACK_KEY, "input_request", content)])
        kernel["shell"].send_multipart([*identities, *message(BACK_KEY, "reply", content)])
    for number, client in enumerate(clients):
        assert client.take("stdin") == ("input_request", {"n": number})
        assert client.take("shell") == ("reply", {"n": number})


def test_a_client_that_comes_again_takes_its_identity_along(rig):
    kernel = rig.kernel()
    exchange(kernel, rig.client("same"), "shell")
    exchange(kernel, rig.client("same"), "shell")


def test_curve_on_the_front(make_rig):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    public, secret = zmq.curve_keypair()
    ports = {name: port + number for number, name in enumerate(CHANNELS)}
    rig = make_rig(Connection("tcp", "127.0.0.1", ports, FRONT_KEY, public, secret))
    kernel = rig.kernel()
    exchange(kernel, rig.client(), "shell")
    plain = rig.context.socket(zmq.DEALER)
    plain.connect(rig.front.address("shell"))
    plain.send_multipart(message(FRONT_KEY, "execute_request", {}))
    assert not kernel["shell"].poll(300)
    plain.close(0)


def test_a_port_in_use_is_an_oserror_that_names_it(rig):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = dict.fromkeys(CHANNELS, port)
        with pytest.raises(OSError, match=f"127.0.0.1:{port}: Address already in use"):
            Relay(Connection("tcp", "127.0.0.1", ports, b""))


def test_a_flood_that_nobody_reads_keeps_everything_a_notebook_waits_for(rig):
    kernel, client = rig.kernel(), rig.client(hwm=10)
    settled(kernel, client)
    parent = {"msg_id": "p"}
    for number in range(20_000):
        kernel.publish("stream", {"name": "stdout", "text": f"{number:>499}\n"}, parent)
        if number % 100 == 0:
            kernel.publish("status", {"n": number}, parent)
    kernel.publish("error", {"ename": "last"}, parent)
    time.sleep(1)
    texts, statuses = [], []
    while (got := client.take("iopub"))[0] != "error":
        (statuses if got[0] == "status" else texts).append(got[1])
    assert [status["n"] for status in statuses] == list(range(0, 20_000, 100))
    assert "".join(text["text"] for text in texts).split() == [str(n) for n in range(20_000)]


def test_a_hostile_flood_that_nobody_reads_keeps_what_a_notebook_waits_for(make_rig):
    ledger = Ledger()
    guard = Guard(ledger)
    rig = make_rig(rules=[guard, ledger])
    guard.passage = rig.relay
    kernel, client = rig.kernel(), rig.client(hwm=10)
    settled(kernel, client)
    client.ask("stdin", "hello", {})
    client.ask("shell", "execute_request", {"code": "print()"})
    frames = kernel["shell"].recv_multipart()
    at = frames.index(DELIMITER)
    parent = json.loads(frames[at + 2])
    kernel.publish("status", {"execution_state": "busy"}, parent)
    for number in range(50_000):
        text = f"\x1b]0;title\x07\x1b[31m{number}\x1b[0m "
        kernel.publish("stream", {"name": "stdout", "text": text}, parent)
        if number % 1000 == 0:
            kernel.publish("comm_open", {"comm_id": str(number)}, parent)
            kernel.publish("status", {"execution_state": "busy"}, parent)
    kernel.publish("error", {"ename": "last", "evalue": "", "traceback": []}, parent)
    for name, kind in (("stdin", "input_request"), ("shell", "execute_reply")):
        reply = message(BACK_KEY, kind, {"status": "ok", "prompt": "p"}, parent)
        kernel[name].send_multipart([*frames[:at], *reply])
    kernel.publish("status", {"execution_state": "idle"}, parent)
    time.sleep(1)
    texts, others = [], []
    while not others or others[-1][1].get("execution_state") != "idle":
        kind, content = client.take("iopub")
        if kind == "stream" and content["name"] == "stdout":
            texts.append(content["text"])
        else:
            others.append((kind, content))
    assert "".join(texts).split() == [f"\x1b[31m{n}\x1b[0m" for n in range(50_000)]
    assert [kind for kind, _ in others] == ["status"] * 51 + ["error", "stream", "status"]
    assert client.take("stdin") == ("input_request", {"prompt": "p", "password": False})
    assert client.take("shell")[0] == "execute_reply"


def test_control_and_stdin_do_not_wait_behind_a_flood(rig):
    kernel, client = rig.kernel(), rig.client()
    settled(kernel, client)
    for _ in range(20_000):
        kernel.publish("stream", {"name": "stdout", "text": "x" * 500})
    started = time.monotonic()
    exchange(kernel, client, "control")
    assert time.monotonic() - started < 0.1


def test_a_client_that_stops_reading_holds_up_another_for_its_patience_only(rig):
    rig.relay._publications.patience_s = 0.3
    kernel, client = rig.kernel(), rig.client(names=("iopub",))
    settled(kernel, client)
    stuck = rig.client("stuck", hwm=1, names=("iopub",))
    assert stuck.take("iopub")[0] == "iopub_welcome"
    client.take("iopub")
    big = "x" * 10_000  # beyond what the kernel's own socket buffers take
    for number in range(3_000):
        kernel.publish("display_data", {"n": number, "big": big})
    got = [client.take("iopub")[1]["n"] for _ in range(3_000)]
    assert got == list(range(3_000))


def test_replies_wait_for_a_slow_client_and_nobody_else_does(rig):
    kernel = rig.kernel()
    slow, other = rig.client("slow", hwm=1), rig.client("other")
    slow.ask("shell", "request", {})
    identities, _, _ = opened(BACK_KEY, kernel["shell"].recv_multipart())
    text = "x" * 10_000
    for number in range(5_000):
        reply = message(BACK_KEY, "reply", {"n": number, "text": text})
        kernel["shell"].send_multipart([*identities, *reply])
    exchange(kernel, other, "shell")
    assert [slow.take("shell")[1]["n"] for _ in range(5_000)] == list(range(5_000))


def test_a_kernel_that_does_not_read_is_not_read_for(rig):
    kernel, client = rig.kernel(hwm=1), rig.client(hwm=1)
    text, sent = "x" * 10_000, 0
    client["shell"].sndtimeo = 500
    with suppress(zmq.Again):
        for sent in range(100_000):
            client.ask("shell", "request", {"n": sent, "text": text})
    assert 0 < sent < 10_000  # the queues of the relay's two sockets, and the system's buffers
    exchange(kernel, rig.client("other"), "control")
    assert [kernel.answer("shell", "reply")["n"] for _ in range(sent)] == list(range(sent))


def test_fifty_megabytes_pass(rig):
    kernel, client = rig.kernel(), rig.client()
    settled(kernel, client)
    kernel.publish("display_data", {"text": "x" * 50_000_000})
    assert len(client.take("iopub")[1]["text"]) == 50_000_000


def test_what_a_kernel_said_before_it_died_arrives(rig):
    kernel, client = rig.kernel(), rig.client()
    settled(kernel, client)
    rig.halt()
    for number in range(5_000):
        kernel.publish("stream", {"name": "stdout", "text": f"{number} "})
    kernel["iopub"].close(linger=WAIT_MS)
    rig.relay.drain()
    rig.relay.deliver()
    text = ""
    while not text.endswith("4999 "):
        text += client.take("iopub")[1]["text"]
    assert text.split() == [str(number) for number in range(5_000)]


def test_the_last_word_reaches_who_reads_past_one_that_does_not(rig):
    kernel, client = rig.kernel(), rig.client(hwm=10)
    settled(kernel, client)
    stalled = rig.client("stalled", hwm=10)
    assert stalled.take("iopub")[0] == "iopub_welcome"
    rig.halt()
    for _ in range(3_000):
        kernel.publish("display_data", {"text": "x" * 10_000})
    kernel.publish("error", {"ename": "last"})
    rig.relay.drain()
    thread = threading.Thread(target=rig.relay.deliver)
    thread.start()
    try:
        while client.take("iopub") != ("error", {"ename": "last"}):
            pass
    finally:
        thread.join()


def test_another_kernel_takes_the_place_of_one_and_clients_keep_their_sockets(rig):
    kernel, client = rig.kernel(), rig.client()
    settled(kernel, client)
    exchange(kernel, client, "shell")
    other = rig.swap()
    client.ask("shell", "request", {"n": 2})
    later = rig.client("later")
    assert other["iopub"].recv() == b"\x01"
    assert not other["shell"].poll(100)  # not before what it publishes would arrive
    other.publish("iopub_welcome", {"subscription": ""})
    assert other.answer("shell", "reply") == {"n": 2}
    assert client.take("shell") == ("reply", {"n": 2})
    exchange(other, client)
    other.publish("stream", {"text": "other"})
    for each in (later, client):  # one welcome, for who has come since: all see it
        assert [each.take("iopub")[0] for _ in range(2)] == ["iopub_welcome", "stream"]
    assert not kernel["shell"].poll(0)


garbage = st.lists(
    st.one_of(st.binary(max_size=64), st.just(DELIMITER), st.just(b"{}"), st.just(b"")),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=garbage)
def test_garbage_on_any_socket_from_either_side_is_dropped(rig, frames):
    kernel, client = getattr(rig, "pair", None) or (rig.kernel(), rig.client("client"))
    if not hasattr(rig, "pair"):
        rig.pair = kernel, client
        settled(kernel, client)
        rig.raw = rig.client("raw", names=("shell", "control", "stdin"))
        rig.publisher = rig.context.socket(zmq.XSUB)
        rig.publisher.connect(rig.front.address("iopub"))
    for name in SIGNED:
        exchange(kernel, client, name)  # so that the client is known
        rig.raw[name].send_multipart(frames)
        kernel[name].send_multipart([b"cellblock-gate", *frames])
        kernel[name].send_multipart([b"cellblock-gate", b"client", *frames])
    kernel["hb"].send_multipart([b"cellblock-gate", *frames])
    kernel["iopub"].send_multipart(frames)
    rig.publisher.send_multipart(frames)
    with suppress(zmq.Again):  # garbage can subscribe: who then does not read holds others up
        while True:
            rig.publisher.recv_multipart(zmq.NOBLOCK)
    for name in SIGNED:
        exchange(kernel, client, name)
    kernel.publish("status", {"n": 1})
    while (got := client.take("iopub"))[0] == "iopub_welcome":
        pass
    assert got == ("status", {"n": 1})


@pytest.mark.parametrize("name", SIGNED)
def test_a_wrong_signature_goes_no_further(rig, name):
    kernel, client = rig.kernel(), rig.client()
    settled(kernel, client)
    client[name].send_multipart(message(b"guessed", "request", {}))
    client[name].send_multipart(message(BACK_KEY, "request", {}))
    exchange(kernel, client, name)
    kernel["iopub"].send_multipart(message(FRONT_KEY, "stream", {}))
    kernel.publish("status", {})
    assert client.take("iopub")[0] == "status"


def test_closing_does_not_wait_for_a_kernel_that_has_ended(rig):
    kernel, client = rig.kernel(), rig.client()
    settled(kernel, client)
    rig.halt()
    for name in CHANNELS:
        kernel[name].close()
    time.sleep(0.1)
    started = time.monotonic()
    rig.relay.close()
    assert time.monotonic() - started < 0.5
