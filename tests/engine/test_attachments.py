"""Binds, file systems in memory and read-only roots, seen from inside and from outside."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest

from cellblock_engine import (
    Bind,
    DiskFull,
    InvalidInput,
    Limits,
    NotFound,
    Removal,
    RunRequest,
    StartFailed,
    Tmpfs,
)
from support import capabilities

pytestmark = pytest.mark.usefixtures("root")


def run(engine, script, **words):
    """Run a shell script to its end; return status, output, errors."""
    request = RunRequest(argv=("sh", "-c", script), removal=Removal.AT_END, **words)
    with engine.spawn(request) as attached:
        out, err, end = attached.communicate(None, most_bytes=1 << 20)
    return end.exit_code, out.decode(), err.decode()


@pytest.fixture
def data(tmp_path):
    """A folder of the caller's, with a file that only the caller may read."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "secret").write_text("ours")
    (folder / "secret").chmod(0o600)
    return folder


@pytest.mark.parametrize(
    ("user", "ids"), [(None, "0 0"), ("daemon", "1 1"), ("1234:5", "1234 5"), ("4321", "4321 0")]
)
def test_files_of_the_caller_are_the_commands_and_the_other_way_round(engine, data, user, ids):
    status, out, err = run(
        engine,
        "cat /data/secret; stat -c ' %u %g' /data/secret; echo new > /data/made; mkdir /data/d",
        user=user,
        binds=(Bind(data, "/data", writable=True),),
    )
    assert (status, out, err) == (0, f"ours {ids}\n", "")
    for name in ("made", "d"):
        made = (data / name).stat()
        assert (made.st_uid, made.st_gid) == (os.geteuid(), os.getegid())
    assert (data / "made").read_text() == "new\n"


def test_files_of_others_are_nobodys(engine, data):
    other = data / "other"
    other.write_text("theirs")
    other.chmod(0o600)
    os.chown(other, 1000, 1000)
    status, out, _ = run(
        engine,
        "stat -c %u /data/other; cat /data/other || chown 0 /data/other || rm /data/secret",
        binds=(Bind(data, "/data", writable=True),),
    )
    assert (status, out) == (0, "65534\n"), "the caller's own can be removed"
    assert (other.stat().st_uid, other.read_text()) == (1000, "theirs")


def test_a_bind_honours_neither_setuid_nor_devices_nor_writes_when_read_only(engine, data):
    os.mknod(data / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    status, _, err = run(
        engine, "echo > /data/null; touch /data/x; true", binds=(Bind(data, "/data"),)
    )
    assert status == 0
    assert "Permission denied" in err
    assert "Read-only file system" in err
    _, options, _ = run(
        engine, "grep ' /data ' /proc/self/mountinfo", binds=(Bind(data, "/data", writable=True),)
    )
    assert {"nosuid", "nodev", "rw"} <= set(options.split()[5].split(","))


def test_a_single_file_can_be_bound_over_one_of_the_image(engine, data):
    bind = Bind(data / "secret", "/etc/passwd", writable=True)
    assert run(engine, "cat /etc/passwd; echo -n changed > /etc/passwd", binds=(bind,))[1] == "ours"
    assert (data / "secret").read_text() == "changed"


def test_binds_inside_binds_and_memory(engine, data, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "file").write_text("inner")
    status, out, err = run(
        engine,
        "cat /m/inner/file; touch /m/x; ls /m",
        binds=(Bind(inner, "/m/inner"),),
        tmpfs=(Tmpfs("/m", 1 << 20),),
    )
    assert (status, out, err) == (0, "innerinner\nx\n", "")


def test_what_is_not_shown_is_refused_before_anything_is_made(engine, tmp_path):
    for source in ("/", "/proc/self", engine.info().home, engine.info().run, tmp_path):
        with pytest.raises(InvalidInput, match="cannot bind"):
            engine.start(RunRequest(argv=("true",), binds=(Bind(source, "/x"),)))
    with pytest.raises(NotFound, match="there is no such file"):
        engine.start(RunRequest(argv=("true",), binds=(Bind(tmp_path / "no", "/x"),)))
    assert engine.containers() == ()


def test_links_of_the_image_lead_no_bind_over_the_kernels_files(engine, data):
    # A folder with such a link stands for an image that has one.
    (data / "trap").symlink_to("/proc/sys")
    with pytest.raises(StartFailed, match="links lead into /proc"):
        run(engine, "true", binds=(Bind(data, "/d"), Bind(data, "/d/trap/kernel")))


def test_binds_with_the_network_of_the_host(engine, data):
    bind = Bind(data, "/data")
    assert run(engine, "cat /data/secret", binds=(bind,), network="host")[:2] == (0, "ours")


@pytest.fixture
def other_mount(data):
    """A function that mounts a file system below the data."""
    place = data / "sub"
    place.mkdir()
    mounted = []

    def mount(kind):
        subprocess.run(["mount", "-t", kind, "none", place], check=True)
        mounted.append(place)
        return place

    yield mount
    for each in mounted:
        subprocess.run(["umount", each], check=True)


def test_the_kernels_file_systems_are_refused_wherever_they_are(engine, data, other_mount):
    place = other_mount("proc")
    for source in (place, place / "1"):
        with pytest.raises(InvalidInput, match="of the kernel's own is there"):
            run(engine, "true", binds=(Bind(source, "/x"),))
    listing = run(engine, "ls /x/sub; cat /x/secret", binds=(Bind(data, "/x", writable=True),))
    assert listing == (0, "ours", ""), "what cannot be mapped does not come along"


def test_what_cannot_be_idmapped_is_bound_read_only_or_refused(engine, tmp_path):
    for name in ("low", "up", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "low" / "file").write_text("readable")
    options = ",".join(
        f"{key}={tmp_path / name}"
        for key, name in (("lowerdir", "low"), ("upperdir", "up"), ("workdir", "work"))
    )
    merged = tmp_path / "merged"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "none", merged], check=True)
    try:
        with pytest.raises(StartFailed, match=f"bind it read-only.*{merged}"):
            run(engine, "true", binds=(Bind(merged, "/x", writable=True),))
        assert run(engine, "cat /x/file", binds=(Bind(merged, "/x"),)) == (0, "readable", "")
    finally:
        subprocess.run(["umount", merged], check=True)


def test_mounts_below_a_bind_come_along(engine, data, other_mount):
    capabilities.need_linux(6, 3, "idmapped mounts of tmpfs")
    place = other_mount("tmpfs")
    (place / "inner").write_text("inner")
    bind = Bind(data, "/x", writable=True)
    assert run(engine, "cat /x/sub/inner; touch /x/sub/new", binds=(bind,)) == (0, "inner", "")
    assert (place / "new").stat().st_uid == os.geteuid()


def test_memory_has_its_size_and_mode(engine):
    status, out, err = run(
        engine,
        "stat -c %a /scratch; head -c 2m /dev/zero > /scratch/x",
        tmpfs=(Tmpfs("/scratch", 1 << 20, 0o700),),
    )
    assert (status, out) == (1, "700\n")
    assert "No space left" in err


def test_shared_memory_has_its_size(engine):
    _, out, _ = run(engine, "df -B1 --output=size /dev/shm | tail -1", shm_bytes=1 << 21)
    assert out.split() == [str(1 << 21)]


def test_a_read_only_root_is_read_only_everywhere_but_where_it_was_asked_for(engine, data):
    status, out, err = run(
        engine,
        "pwd; for f in /x /usr/x /etc/hosts /tmp/x /scratch/x /data/x /dev/shm/x; do"
        " (: > $f) 2>/dev/null && echo $f; done; true",
        read_only=True,
        workdir="/made/before",
        tmpfs=(Tmpfs("/scratch"),),
        binds=(Bind(data, "/data", writable=True),),
    )
    assert (status, err) == (0, "")
    assert out.split() == ["/made/before", "/scratch/x", "/data/x", "/dev/shm/x"]


def test_a_read_only_root_cannot_be_made_writable_again(engine):
    script = "mount -o remount,rw / ; touch /x"
    status, _, err = run(engine, script, read_only=True)
    assert status != 0
    assert "Read-only file system" in err


def test_inspect_shows_what_is_attached(engine, data):
    request = RunRequest(
        argv=("sleep", "100"),
        binds=(Bind(data, "/data", writable=True),),
        tmpfs=(Tmpfs("/t", 4096),),
        read_only=True,
        shm_bytes=8192,
    )
    info = engine.start(request).inspect()
    assert (info.binds, info.tmpfs) == (request.binds, request.tmpfs)
    assert (info.read_only, info.shm_bytes) == (True, 8192)


def test_a_later_command_sees_the_same(engine, data):
    request = RunRequest(argv=("sleep", "100"), binds=(Bind(data, "/data"),), user="daemon")
    assert engine.start(request).exec(["cat", "/data/secret"]).stdout == b"ours"


def test_what_is_written_is_limited_and_the_rest_works_as_ever(engine):
    capabilities.need_attributes_in_memory()
    status, out, err = run(
        engine,
        "head -c 8m /dev/zero > /big; echo $?; rm /big; mkdir -p /opt/x; touch /usr/x;"
        " rm -r /usr/share/doc; mkdir /usr/share/doc; ls -A /usr/share/doc; stat -c %a /",
        storage_bytes=4 << 20,
    )
    assert (status, out) == (0, "1\n755\n"), err
    assert "No space left" in err


@pytest.mark.attack(23)
@pytest.mark.parametrize(
    "fill",
    [
        "head -c 8m /dev/zero > /big",
        "i=0; while true > /root/$i; do i=$((i+1)); done; false",
    ],
)
def test_filled_storage_is_the_verdict_with_its_limit(engine, fill):
    capabilities.need_attributes_in_memory()
    request = RunRequest(
        argv=("sh", "-c", fill), storage_bytes=4 << 20, removal=Removal.AT_END, interactive=True
    )
    with engine.spawn(request) as attached:
        _, err, end = attached.communicate(b"", most_bytes=1 << 20)
    assert isinstance(end.verdict, DiskFull)
    assert end.verdict.limit_bytes == 4 << 20
    assert str(end.verdict) == (
        "disk full: what was written filled the limit of 4 MiB (or its number of files); give it "
        "more with --storage-limit"
    )
    assert b"No space left" in err


def test_a_command_that_made_room_again_has_failed_of_something_else(engine):
    capabilities.need_attributes_in_memory()
    request = RunRequest(
        argv=("sh", "-c", "head -c 8m /dev/zero > /big; rm /big; exit 3"),
        storage_bytes=4 << 20,
        removal=Removal.AT_END,
    )
    with engine.spawn(request) as attached:
        _, _, end = attached.communicate(None, most_bytes=1 << 20)
    assert (end.exit_code, end.verdict) == (3, None)


def test_storage_in_memory_is_counted_as_the_containers(engine):
    capabilities.need_memory_cgroup()
    capabilities.need_attributes_in_memory()
    status, _, _ = run(
        engine, "head -c 100m /dev/zero > /big", storage_bytes=1 << 30, limits=Limits(memory="32m")
    )
    assert status == 137


def test_storage_in_memory_ends_with_the_container_and_says_so():
    with pytest.raises(InvalidInput, match="give --rm as well"):
        RunRequest(storage_bytes=1 << 20)
    with pytest.raises(InvalidInput, match="too small"):
        RunRequest(storage_bytes=1, removal=Removal.AT_END)


@pytest.mark.attack(23)
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("/dev/shm", {"shm_bytes": 1 << 20}),
        ("/t", {"tmpfs": (Tmpfs("/t", 1 << 20),)}),
        ("/root", {"storage_bytes": 1 << 20}),
    ],
)
def test_what_is_in_memory_holds_so_many_files_and_no_more(engine, place, words):
    if "storage_bytes" in words:
        capabilities.need_attributes_in_memory()
    fill = f"cd {place}; i=0; while [ $i -lt 2000 ]; do true > f$i || exit 9; i=$((i+1)); done"
    exit_code, _, error = run(engine, fill, **words)
    assert exit_code == 9
    assert "No space left on device" in error


def test_a_file_system_in_memory_without_a_size_has_an_inode_bound(engine):
    exit_code, out, _ = run(engine, "stat -f -c %c /t", tmpfs=(Tmpfs("/t"),))
    assert (exit_code, out.strip()) == (0, "65536")
