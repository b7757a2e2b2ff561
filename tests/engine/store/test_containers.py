"""Configs of containers that other versions of cellblock wrote."""

from __future__ import annotations

import json

import pytest

from cellblock_engine import Conflict, Engine, Removal, StoreError

ID = "ab" * 32
# as the first version with containers wrote it
EARLIEST = {
    "id": ID,
    "name": "old",
    "image": "host",
    "image_id": None,
    "layers": [],
    "argv": ["true"],
    "env": ["A=b"],
    "workdir": "/",
    "user": "0",
    "hostname": "old",
    "network": "none",
    "memory_bytes": 1 << 26,
    "cpus": None,
    "pids": None,
    "timeout_s": None,
    "stop_signal": 15,
    "labels": {},
    "created_at": 1.5e9,
    "remove": False,
}


@pytest.fixture
def written(tmp_path):
    def write(config) -> Engine:
        directory = tmp_path / "store" / "containers" / ID
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(config))
        (directory / "state.json").write_text('{"status": "exited", "exit_code": 3}')
        (tmp_path / "store" / "gc.lock").touch()
        return Engine.open(tmp_path / "store")

    return write


def test_the_earliest_form_is_read(written):
    engine = written(EARLIEST)
    (info,) = engine.containers()
    assert (info.name, info.argv, info.exit_code) == ("old", ("true",), 3)
    assert (info.limits.memory_bytes, info.read_only, info.binds) == (1 << 26, False, ())
    engine.container("ab").remove()
    assert engine.containers() == ()


def test_settings_of_a_newer_version_keep_it_from_being_started_only(written):
    plain = {**EARLIEST, "removal": str(Removal.NEVER), "veil": "thick"}
    del plain["remove"]
    engine = written(plain)
    assert [info.name for info in engine.containers()] == ["old"]
    with pytest.raises(Conflict, match=r"newer cellblock .* \(veil\)"):
        engine.start("ab")
    engine.container("ab").remove()
    assert engine.containers() == ()


def test_a_damaged_config_is_named(written):
    with pytest.raises(StoreError, match=f"container {ID[:12]} has a damaged config"):
        written({"id": ID}).containers()
