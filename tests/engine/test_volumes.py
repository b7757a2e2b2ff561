"""Docker's words for what is attached, and which host paths are never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellblock_engine import (
    Bind,
    InvalidInput,
    NotFound,
    RunRequest,
    Tmpfs,
    parse_mount,
    parse_tmpfs,
    parse_volume,
)
from cellblock_engine.volumes import refused


def test_volumes_as_docker_writes_them(tmp_path, monkeypatch):
    assert parse_volume(f"{tmp_path}:/data") == Bind(tmp_path, "/data", writable=True)
    assert parse_volume(f"{tmp_path}:/a/../data/:ro") == Bind(tmp_path, "/data")
    monkeypatch.chdir(tmp_path)
    assert parse_volume(".:/data").source == tmp_path
    (tmp_path / "link").symlink_to("/etc")
    assert parse_volume("./link:/data").source == Path("/etc")


def test_mounts_as_docker_writes_them(tmp_path):
    words = f"type=bind,source={tmp_path},target=/data"
    assert parse_mount(words) == Bind(tmp_path, "/data", writable=True)
    assert parse_mount(f"type=bind,src={tmp_path},dst=/data,readonly") == Bind(tmp_path, "/data")
    assert parse_mount(f"{words},ro=false").writable
    assert parse_mount("type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=700") == Tmpfs(
        "/t", 1 << 20, 0o700
    )


def test_tmpfs_as_docker_writes_it():
    assert parse_tmpfs("/run") == Tmpfs("/run", None, 0o1777)
    assert parse_tmpfs("/run:rw,nosuid,size=64k,mode=755") == Tmpfs("/run", 65536, 0o755)


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_volume, "/etc", "is not valid: write -v"),
        (parse_volume, ":/data", "is not valid: write -v"),
        (parse_volume, "data:/data", "names a volume"),
        (parse_volume, "/etc:data", "absolute path"),
        (parse_volume, "/etc:/", "target / is not valid"),
        (parse_volume, "/etc:/x/..", "target / is not valid"),
        (parse_volume, "/etc:/proc/self", "/proc is the kernel's own"),
        (parse_volume, "/etc:/dev/", "/dev is the kernel's own"),
        (parse_volume, "/etc://sys", "/sys is the kernel's own"),
        (parse_volume, "/etc:/data:z", "option 'z' is not known"),
        (parse_mount, "type=bind,target=/x", "has no source"),
        (parse_mount, "type=bind,source=/etc", "has no target"),
        (parse_mount, "type=volume,source=v,target=/x", "type 'volume' is not known"),
        (parse_mount, "type=bind,source=/etc,target=/x,bind-propagation=shared", "not known"),
        (parse_mount, "type=tmpfs,target=/x,readonly", "always empty"),
        (parse_mount, "type=bind,source=/etc,target=/x,readonly=maybe", "true or false"),
        (parse_tmpfs, "/x:size=big", "is not a size"),
        (parse_tmpfs, "/x:size=0", "at least one byte"),
        (parse_tmpfs, "/x:mode=9", "not octal"),
        (parse_tmpfs, "/x:mode=4755", "not 0 to 1777"),
        (parse_tmpfs, "/x:exec", "option 'exec' is not known"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(parse, text, message):
    with pytest.raises(InvalidInput, match=message) as refusal:
        parse(text)
    assert "\n" not in str(refusal.value)


def test_a_missing_source_is_named_and_not_made(tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(NotFound, match=f"cannot bind {missing}"):
        parse_volume(f"{missing}:/data")
    assert not missing.exists()


def test_two_mounts_at_one_place_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="two mounts have the target /data"):
        RunRequest(binds=(Bind(tmp_path, "/data"),), tmpfs=(Tmpfs("/data/"),))


def test_the_machine_the_kernel_and_the_store_are_not_shown(tmp_path):
    store = tmp_path / "store"
    (store / "layers").mkdir(parents=True)
    (tmp_path / "door").symlink_to(store)
    for path in ("/", "/proc", "/sys/fs/cgroup", "/dev", "/dev/null"):
        assert refused(Path(path), (store,)), path
    for path in (store, store / "layers", tmp_path, tmp_path / "door"):
        assert refused(path, (store,)), path
    (tmp_path / "data").mkdir()
    assert refused(tmp_path / "data", (store,)) is None
    assert refused(Path("/etc"), (store,)) is None
