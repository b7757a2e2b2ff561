"""A room: private, short enough for sockets, swept when its owner is gone, proof against links."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from cellblock_engine import ContainerNotFound, InvalidInput
from cellblock_kernel.errors import KernelNotReady
from cellblock_kernel.gate import room
from cellblock_kernel.gate.connection import Connection
from cellblock_kernel.gate.room import Room


class NoContainers:
    def __init__(self):
        self.asked = []

    def container(self, identifier):
        self.asked.append(identifier)
        raise ContainerNotFound(identifier)


@pytest.fixture
def kernels(tmp_path_factory):
    path = tmp_path_factory.mktemp("k")
    assert len(str(path)) < 60
    return path


def bind(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def test_it_is_the_users_alone_and_the_key_is_in_its_connection_file(kernels):
    with Room.make(kernels) as made:
        made.furnish(b"key", "name")
        for path in (made.path, made.inside):
            assert path.stat().st_mode & 0o777 == 0o700
        file = made.inside / "connection.json"
        assert file.stat().st_mode & 0o777 == 0o600
        assert json.loads(file.read_text())["key"] == "key"
    assert not made.path.exists()


def test_a_path_too_long_for_sockets_is_refused_before_anything_is_made(tmp_path):
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    with pytest.raises(InvalidInput, match="too long for a socket"):
        Room.make(deep)
    assert list(deep.iterdir()) == []


def test_it_has_sockets_once_all_are_bound(kernels):
    with Room.make(kernels) as made:
        made.furnish(b"", "")
        assert not made.has_sockets()
        for number in range(1, 6):
            bind(made.inside / f"kernel-{number}")
        assert made.has_sockets()


@pytest.mark.parametrize("trick", ["link", "file", "fifo", "directory"])
def test_what_is_no_socket_is_not_connected_to(kernels, trick):
    with Room.make(kernels) as made:
        made.furnish(b"", "")
        bind(kernels / "victim")
        path = made.inside / "kernel-1"
        {
            "link": lambda: path.symlink_to(kernels / "victim"),
            "file": path.touch,
            "fifo": lambda: os.mkfifo(path),
            "directory": path.mkdir,
        }[trick]()
        with pytest.raises(KernelNotReady, match="kernel-1"):
            made.has_sockets()


def test_what_replaces_a_socket_later_is_not_met(kernels):
    with Room.make(kernels) as made:
        made.furnish(b"", "")
        for number in range(1, 6):
            bind(made.inside / f"kernel-{number}")
        assert made.has_sockets()
        before = os.lstat(made.path / "back" / "k1-1").st_ino
        (made.inside / "kernel-1").unlink()
        (made.inside / "kernel-1").symlink_to("/run/victim")
        assert made.has_sockets()
        assert os.lstat(made.path / "back" / "k1-1").st_ino == before


def test_furnishing_again_leaves_no_earlier_sockets(kernels):
    with Room.make(kernels) as made:
        addresses = set()
        for _ in range(2):
            made.furnish(b"", "")
            assert not made.has_sockets()
            for number in range(1, 6):
                bind(made.inside / f"kernel-{number}")
            assert made.has_sockets()
            addresses |= {made.back(b"").address("shell")}
        assert len(addresses) == 2  # what still knows the one does not come to the other


def test_what_a_kernel_nests_deeply_is_removed_all_the_same(kernels):
    with Room.make(kernels) as made:
        made.furnish(b"", "")
        fd = os.open(made.inside, os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("d", dir_fd=fd)
            inner = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = inner
        os.close(fd)
    assert not made.path.exists()


@pytest.mark.parametrize("where", ["tcp", "elsewhere", "ownerless"])
def test_a_connection_file_that_names_another_place_costs_nobody_a_folder(kernels, where):
    folder = kernels / "notebooks"
    (folder / "inside").mkdir(parents=True)
    ip = {"tcp": "127.0.0.1", "elsewhere": "kernel", "ownerless": "front"}[where]
    front = Connection(
        "tcp" if where == "tcp" else "ipc",
        ip if where == "tcp" else str(folder / ip),
        room.PORTS,
        b"",
    )
    with pytest.raises(InvalidInput, match="no directory of a kernel's sockets"):
        Room.of(front)
    assert [path.name for path in folder.iterdir()] == ["inside"]


def test_a_front_ends_connection_file_leads_to_the_room_it_owns(kernels):
    with Room.make(kernels) as made:
        assert Room.of(Connection("ipc", made.front_ip, room.PORTS, b"")).path == made.path


def test_a_sweep_leaves_what_lives_and_takes_what_was_left(kernels):
    program = (
        "import os, sys, pathlib\n"
        "from cellblock_kernel.gate.room import Room\n"
        "made = Room.make(pathlib.Path(sys.argv[1])); made.note('abc')\n"
        "print(made.path.name, flush=True); os.kill(os.getpid(), 9)\n"
    )
    left = subprocess.run(
        [sys.executable, "-c", program, str(kernels)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ).stdout.strip()
    assert left
    engine = NoContainers()
    with Room.make(kernels) as living:
        assert room.sweep(kernels, engine) == (left,)
        assert living.path.exists()
    assert engine.asked == ["abc"]
    assert room.sweep(kernels, engine) == ()


def test_furnishing_for_another_leaves_the_one_that_is_there_its_own(kernels):
    with Room.make(kernels) as made:
        made.furnish(b"first", "")
        seen = os.open(made.inside, os.O_PATH)  # as a mount of it does
        try:
            with made.refurnished(b"second", ""):
                assert Connection.read(made.inside / "connection.json").key == b"second"
                with open(
                    "connection.json", opener=lambda name, flags: os.open(name, flags, dir_fd=seen)
                ) as file:
                    assert '"first"' in file.read()
        finally:
            os.close(seen)
        assert Connection.read(made.inside / "connection.json").key == b"second"
        assert sorted(os.listdir(made.path)) == ["back", "inside", "lock"]


def test_furnishing_for_another_that_fails_changes_nothing(kernels):
    with Room.make(kernels) as made:
        made.furnish(b"first", "")
        before = made.inside.stat().st_ino
        with pytest.raises(KeyboardInterrupt), made.refurnished(b"second", ""):
            raise KeyboardInterrupt
        assert made.inside.stat().st_ino == before
        assert Connection.read(made.inside / "connection.json").key == b"first"
        assert sorted(os.listdir(made.path)) == ["back", "inside", "lock"]
