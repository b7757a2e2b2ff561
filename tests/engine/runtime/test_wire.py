"""Messages with descriptors between processes."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from cellblock_engine.errors import StartFailed
from cellblock_engine.runtime import wire


@pytest.fixture
def ends():
    left, right = wire.pair()
    with left, right:
        yield left, right


def test_a_message_arrives_whole_with_its_descriptors_in_order(ends):
    left, right = ends
    read_end, write_end = os.pipe()
    wire.send(left, {"op": "exec", "argv": ["ä", "b"]}, [read_end, write_end])
    message, fds = wire.receive(right)
    assert message == {"op": "exec", "argv": ["ä", "b"]}
    os.write(fds[1], b"through")
    assert os.read(fds[0], 20) == b"through"
    assert not any(os.get_inheritable(fd) for fd in fds)
    for fd in (read_end, write_end, *fds):
        os.close(fd)


def test_a_message_longer_than_a_packet_travels_in_a_memfd(ends):
    left, right = ends
    wire.send(left, {"text": "x" * 1_000_000}, [0])
    message, fds = wire.receive(right)
    assert message == {"text": "x" * 1_000_000}
    assert len(fds) == 1
    os.close(fds[0])


def test_more_descriptors_than_one_packet_carries(ends):
    left, right = ends
    wire.send(left, {"ready": True}, [0] * 700)
    message, fds = wire.receive(right)
    assert message == {"ready": True}
    assert len(set(fds)) == 700
    for fd in fds:
        os.close(fd)


def test_the_end_of_the_other_side_is_told_apart_from_a_message(ends):
    left, right = ends
    left.close()
    with pytest.raises(wire.Disconnected):
        wire.receive(right)


@pytest.mark.parametrize("packet", [b"no json", b"{}\n{}", b'{"long":false,"more":0}\nnot json'])
def test_what_is_no_message_is_refused_and_leaks_no_descriptor(ends, packet):
    left, right = ends
    before = len(os.listdir("/proc/self/fd"))
    wire._send_packet(left, packet, [0, 1])
    with pytest.raises((ValueError, KeyError)):
        wire.receive(right)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.attack(65)
def test_a_listener_is_met_by_its_own_user_alone(tmp_path, monkeypatch):
    path = str(tmp_path / "s")
    with pytest.raises(FileNotFoundError):
        wire.connect(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        with pytest.raises(ConnectionRefusedError):
            wire.connect(path)
        listener.listen()
        with wire.connect(path, timeout_s=3) as sock:
            assert sock.gettimeout() == 3
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
        with pytest.raises(StartFailed, match="belongs to user"):
            wire.connect(path)


@pytest.mark.usefixtures("root")
@pytest.mark.attack(65)
def test_a_container_does_not_believe_a_monitor_of_another_user(engine, tmp_path):
    engine.run("host", ["true"], name="over", remove=False)
    container = engine.container("over")
    path = engine.info().run / f"{container.id[:12]}.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(os.fspath(path))
        code = f"import socket; socket.socket(fileno={listener.fileno()}).listen()"
        argv = ["/usr/bin/env", "python3", "-c", code]
        subprocess.run(argv, user=54321, pass_fds=[listener.fileno()], check=True)
        try:
            with pytest.raises(StartFailed, match="belongs to user 54321"):
                container.wait(5)
        finally:
            path.unlink()
