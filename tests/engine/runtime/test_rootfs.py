"""The plan of a container's root."""

from __future__ import annotations

from cellblock_engine.linux import idmaps
from cellblock_engine.linux.cgroups import Limits
from cellblock_engine.removal import Removal
from cellblock_engine.runtime import rootfs
from cellblock_engine.runtime.spec import (
    BindSpec,
    FileSpec,
    OverlaySpec,
    ProcessSpec,
    StartSpec,
    TmpfsSpec,
    dump,
    load_start,
)


def spec(*, own_network=True, id_ranges="/run/ids", read_only=False):
    return StartSpec(
        id="c" * 64,
        directory="/d",
        name_link="/n",
        socket="/s",
        id_ranges=id_ranges,
        id_maps=None if id_ranges else idmaps.single(),
        hostname="h",
        own_network=own_network,
        allow_hosts=(),
        overlays=(
            OverlaySpec("/", ("/l/1", "/l/2"), "/d/upper0"),
            OverlaySpec("/usr", ("/usr",), "/d/upper1"),
        ),
        files=(FileSpec("/etc/hosts", "127.0.0.1 localhost\n"),),
        binds=(BindSpec("/d/data", "/data/set", writable=False),),
        tmpfs=(TmpfsSpec("/data", 1 << 20, 0o700),),
        shm_bytes=1 << 16,
        read_only=read_only,
        storage_bytes=None,
        limits=Limits(1 << 26, 0.5, None),
        timeout_s=1.5,
        stop_signal=15,
        foreground=True,
        removal=Removal.NEVER,
        again=False,
        process=ProcessSpec(("sh", "-c", "ä"), ("A=b",), "/", "", ("in", "out")),
    )


def test_a_start_travels_as_json_and_comes_back_equal():
    assert load_start(dump(spec())) == spec()


def test_the_plan_reads_as_the_order_in_which_things_happen():
    lines = [operation.describe() for operation in rootfs.plan(spec(), {})]
    assert lines[:3] == [
        "overlay of 2 layers on /",
        "overlay of 1 layers on /usr",
        "proc on /proc ()",
    ]
    assert "files /etc/hosts" in lines
    assert "tmpfs on /dev/shm (mode=1777,size=65536,nr_inodes=1024)" in lines
    assert lines.index("tmpfs on /dev (mode=755,size=64k,nr_inodes=1024)") < lines.index(
        "mask /proc/kcore"
    )
    assert "read-only /proc/sys" in lines


def test_attachments_come_outermost_first_and_read_only_last():
    lines = [operation.describe() for operation in rootfs.attachments(spec(read_only=True))]
    assert lines == [
        "tmpfs on /data (1048576 bytes, mode 700)",
        "bind /d/data on /data/set (ro)",
        "read-only / /usr /etc/hosts",
    ]


def test_sources_are_cloned_bottom_layer_first_and_only_the_upper_is_writable():
    sources = rootfs.sources(rootfs.plan(spec(), {}))
    assert [source.path for source in sources] == [
        "/l/1",
        "/l/2",
        "/d/upper0",
        "/usr",
        "/d/upper1",
    ]
    assert [source.path for source in sources if source.writable] == ["/d/upper0", "/d/upper1"]


def test_sysfs_only_with_a_network_of_its_own():
    shared = [op.describe() for op in rootfs.plan(spec(own_network=False), {})]
    assert "sysfs on /sys ()" not in shared
    assert "sysfs on /sys ()" in [op.describe() for op in rootfs.plan(spec(), {})]


def test_a_single_id_has_no_terminal_group():
    ranged = [op.describe() for op in rootfs.plan(spec(), {})]
    single = [op.describe() for op in rootfs.plan(spec(id_ranges=None), {})]
    assert any("gid=5" in line for line in ranged)
    assert not any("gid=5" in line for line in single)
