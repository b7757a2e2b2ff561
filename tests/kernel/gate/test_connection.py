"""Connection files: what is read, and what is refused in one line."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellblock_engine import InvalidInput
from cellblock_kernel.gate.connection import CHANNELS, Connection

PORTS = {f"{name}_port": 5000 + number for number, name in enumerate(CHANNELS)}
TCP = {"transport": "tcp", "ip": "127.0.0.1", "key": "k", **PORTS}


@pytest.fixture
def read(tmp_path):
    def read(plain: object) -> Connection:
        path = tmp_path / "connection.json"
        path.write_text(json.dumps(plain))
        return Connection.read(path)

    return read


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "connection.json"
    ports = {name: number for number, name in enumerate(CHANNELS, 1)}
    written = Connection("ipc", "/run/k", ports, b"key", kernel_name="python3")
    written.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Connection.read(path) == written
    assert written.address("shell") == "ipc:///run/k-1"


def test_addresses_over_tcp(read):
    assert read(TCP).address("shell") == "tcp://127.0.0.1:5000"
    assert read({**TCP, "ip": "localhost"}).address("hb") == "tcp://127.0.0.1:5004"


@pytest.mark.parametrize(
    "ip", ["0.0.0.0", "*", "", "10.0.0.1", "::1", "::", "eth0", "127.0.0.1:1;x", "1127.0.0.1"]
)
def test_other_machines_are_not_listened_to(read, ip):
    with pytest.raises(InvalidInput, match="a kernel listens on this machine alone"):
        read({**TCP, "ip": ip})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"transport": "inproc"}, "the transport is ipc or tcp"),
        ({"transport": "epgm"}, "the transport is ipc or tcp"),
        ({"transport": "ipc", "ip": "@abstract"}, "no path for sockets"),
        ({"transport": "ipc", "ip": ""}, "no path for sockets"),
        ({"shell_port": 0}, "which is no port"),
        ({"shell_port": 70000}, "which is no port"),
        ({"shell_port": "x"}, "is no connection file"),
        ({"signature_scheme": "hmac-md5"}, "only hmac-sha256 is known, not 'hmac-md5'"),
        ({"curve_secretkey": "x" * 40}, "are both needed"),
        ({"curve_secretkey": "x" * 39, "curve_publickey": "x" * 40}, "40 characters each"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(read, change, reason):
    with pytest.raises(InvalidInput, match=reason) as caught:
        read({**TCP, **change})
    assert "\n" not in str(caught.value)


anything = st.none() | st.text() | st.integers()
some_fields = st.dictionaries(st.sampled_from([*TCP, "curve_publickey"]), anything)


@given(plain=anything | st.lists(anything) | some_fields)
def test_any_json_is_read_or_refused(tmp_path_factory, plain):
    path: Path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(plain))
    with suppress(InvalidInput):
        assert Connection.read(path).transport in ("ipc", "tcp")
