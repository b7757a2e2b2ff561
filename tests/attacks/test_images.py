"""What an image, or its configuration, tries. Each test is named by the attack's number."""

from __future__ import annotations

import json
import struct
import sys
import sysconfig
from pathlib import Path

import pytest

from cellblock_engine import Engine, InvalidAnswer, InvalidInput, NotFound, RunRequest, errors
from cellblock_engine.linux import capabilities
from support import tars
from support.inside import output_of

pytestmark = pytest.mark.usefixtures("root")

MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi")


def test_10_null_and_masked_paths_of_the_image(base_engine: Engine, hostile) -> None:
    """CVE-2025-31133: what masks is made from the image's own /dev/null, and that is a link."""
    layers = (
        tars.archive(tars.directory(b"dev"), tars.file(b"dev/null", b"evil", mode=0o666)),
        tars.archive(
            tars.directory(b"dev"),
            tars.symlink(b"dev/null", b"/proc/sys/kernel/core_pattern"),
            tars.symlink(b"dev/zero", b"/etc/passwd"),
        ),
        tars.archive(tars.directory(b"dev/null"), tars.file(b"dev/null/evil")),
    )
    program = f"""
import json, os, stat
null = os.lstat("/dev/null")
masked = {{}}
for path in {MASKED!r}:
    try:
        masked[path] = os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(9).hex()
    except OSError as error:
        masked[path] = error.strerror
print(json.dumps([stat.S_ISCHR(null.st_mode), null.st_rdev == os.makedev(1, 3), masked]))
"""
    for layer in layers:
        done = base_engine.run(hostile(layer), ["python3", "-c", program])
        is_device, is_null, masked = json.loads(done.check().stdout)
        assert is_device
        assert is_null
        shown = {path: found for path, found in masked.items() if found not in ("", [])}
        assert set(shown.values()) <= {"No such file or directory", "Permission denied"}


def file_capability(wanted: int) -> bytes:
    """Return a value of security.capability that makes these effective (vfs_cap_data)."""
    return struct.pack("<5I", 0x02000001, wanted & 0xFFFFFFFF, 0, wanted >> 32, 0)


CAPABILITY = file_capability(capabilities.mask(capabilities.DEFAULT))
ALL = file_capability((1 << 41) - 1)


def test_16_file_capabilities(base_engine: Engine, hostile) -> None:
    status = b"#!/bin/sh\ngrep Cap /proc/self/status\n"
    xattr = {b"SCHILY.xattr.security.capability": CAPABILITY}
    image = hostile(tars.archive(tars.pax(xattr), tars.file(b"evil", status, mode=0o6755)))
    container = base_engine.start(RunRequest(image=image, argv=("sleep", "60")))
    try:
        make = (
            "import os, shutil; shutil.copy('/bin/grep', '/srv/grep')\n"
            f"os.setxattr('/srv/grep', 'security.capability', {CAPABILITY!r})\n"
            "os.chmod('/srv/grep', 0o6755)\n"
            "shutil.copy('/bin/true', '/srv/true')\n"
            f"os.setxattr('/srv/true', 'security.capability', {ALL!r})"
        )
        container.exec(["python3", "-c", make]).check()
        for argv in (["/srv/grep", "Cap", "/proc/self/status"], ["/evil"]):
            lines = container.exec(argv, user="1000").check().stdout.decode().split()
            sets = dict(zip(lines[::2], (int(word, 16) for word in lines[1::2]), strict=True))
            assert (sets["CapEff:"], sets["CapPrm:"], sets["CapInh:"], sets["CapAmb:"]) == (0,) * 4
            with pytest.raises(errors.CommandNotExecutable):
                container.exec(["/srv/true"], user="1000")
            assert sets["CapBnd:"] == capabilities.mask(capabilities.DEFAULT)
    finally:
        container.remove(force=True)


def test_20_libraries_of_the_image_are_not_loaded_by_the_engine(
    base_engine: Engine, hostile
) -> None:
    """What Python and libc load by name, at every place where the engine's own might be."""
    evil = b"open('/loaded', 'a').write(__name__ + chr(10))\n"
    places = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}
    places |= {path for path in sys.path if path.startswith("/")}
    modules = "encodings/__init__ encodings/idna encodings/utf_8 stringprep sitecustomize pwd"
    modules += " usercustomize socket json/__init__ ctypes/__init__ signal os traceback linecache"
    planted = {f"{place}/{module}.py": evil for place in places for module in modules.split()}
    planted |= {
        "/etc/nsswitch.conf": b"passwd: evil\ngroup: evil\nhosts: evil\n",
        "/usr/lib/x86_64-linux-gnu/libnss_evil.so.2": b"\x7fELF evil",
        "/usr/lib/python3/dist-packages/usercustomize.py": evil,
        "/etc/locale.alias": b"evil",
    }
    entries = (
        tars.pax({b"path": path.lstrip("/").encode()}) + tars.file(b"x", content)
        for path, content in planted.items()
    )
    archive = tars.archive(*entries)
    image = hostile(archive)
    container = base_engine.start(RunRequest(image=image, argv=("/bin/sleep", "60"), user="games"))
    try:
        for argv in (["/bin/true"], ["/nö", "ä"]):
            output_of(lambda: container.exec(argv, user="daemon:games"))  # noqa: B023
            output_of(lambda: container.exec(argv, workdir="/etc/ü"))  # noqa: B023
        with pytest.raises(errors.StartFailed):
            container.exec(["/bin/true"], user="nobody-knows")
        assert container.exec(["/bin/cat", "/loaded"], user="0").exit_code == 1
        # The canary sings where it is let: the image's own Python loads it. Where its library is
        # at the same place as ours, what was planted there keeps it from starting at all.
        own = container.exec(["/usr/bin/python3", "-c", "pass"], user="0")
        loaded = container.exec(["/bin/cat", "/loaded"], user="0").stdout
        assert b"usercustomize" in loaded or b"encodings" in own.stderr
    finally:
        container.remove(force=True)


def test_42_three_hundred_layers_start(base_engine: Engine, hostile) -> None:
    layers = [tars.archive(tars.file(b"layer", b"%d\n" % n)) for n in range(299)]
    image = hostile(*layers)
    assert len(base_engine.image(image).layers) == 300
    assert base_engine.run(image, ["/bin/cat", "/layer"]).check().stdout == b"298\n"


def test_42_six_hundred_layers_are_refused(base_engine: Engine, hostile) -> None:
    before = base_engine.images()
    with pytest.raises(InvalidAnswer, match="layers") as caught:
        hostile(*[tars.archive(tars.file(b"layer", b"%d\n" % n)) for n in range(599)])
    assert "\n" not in str(caught.value)
    assert base_engine.images() == before


@pytest.mark.parametrize(
    "user", ["4294967296", "4294967295", "-1", "0x0", "root\n", "0:4294967296"]
)
def test_48_users_that_are_none(base_engine: Engine, hostile, user: str) -> None:
    image = hostile(config={"User": user})
    with pytest.raises((errors.StartFailed, InvalidInput)) as caught:
        base_engine.run(image, ["/bin/id"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(tars.header(b"etc/passwd", b"6"), id="FIFO"),
        pytest.param(tars.symlink(b"etc/passwd", b"/etc/shadow"), id="link"),
        pytest.param(tars.symlink(b"etc/passwd", b"/proc/self/mem"), id="link to memory"),
        pytest.param(tars.directory(b"etc/passwd"), id="directory"),
        pytest.param(tars.file(b"etc/passwd", b"root:x:0:0::/:/bin/sh\n" * 60_000), id="1.3 MB"),
    ],
)
@pytest.mark.timeout(30)
def test_48_passwd_is_something_else(base_engine: Engine, hostile, entry: bytes) -> None:
    with pytest.raises((errors.StartFailed, OSError)) as caught:
        base_engine.run(hostile(tars.archive(entry)), ["/bin/id"], user="root")
    assert "\n" not in str(caught.value)


def test_48_passwd_grows_to_a_gigabyte(base_engine: Engine, base_image: str) -> None:
    container = base_engine.start(RunRequest(image=base_image, argv=("sleep", "60")))
    try:
        container.exec(["truncate", "-s", "1G", "/etc/passwd"]).check()
        with pytest.raises(errors.StartFailed, match="/etc/passwd"):
            container.exec(["true"], user="root")
    finally:
        container.remove(force=True)


NAMES = ("../../x", "..", ".", "/etc", "a/b", "a\0b", "a\nb", "-rf", "", "é", "x" * 129)


@pytest.mark.parametrize("name", NAMES)
def test_49_container_names_that_are_paths(
    base_engine: Engine, base_home: Path, base_image: str, name: str
) -> None:
    canary = base_home.parent / "x"
    canary.mkdir(exist_ok=True)
    (canary / "config.json").write_text("{}")
    with pytest.raises(InvalidInput):
        RunRequest(image=base_image, argv=("true",), name=name)
    with pytest.raises((NotFound, InvalidInput)):
        base_engine.container(name)
    with pytest.raises((NotFound, InvalidInput)):
        base_engine.image(name)
    assert (canary / "config.json").read_text() == "{}"


def test_50_labels_and_annotations_decide_nothing(base_engine: Engine, hostile) -> None:
    wishes = {
        "cellblock.network": "host",
        "cellblock.privileged": "true",
        "network": "host",
        "remove": "true",
        "io.cellblock.binds": "/:/host:rw",
        "org.systemd.property.DeviceAllow": "/dev/sda rwm",
        "run.oci.keep_original_groups": "1",
        "io.kubernetes.cri-o.userns-mode": "host",
        "devcontainer.metadata": '[{"privileged":true,"capAdd":["SYS_ADMIN"]}]',
    }
    config = {"Labels": wishes, "Volumes": {"/etc": {}}, "HostConfig": {"Privileged": True}}
    image = hostile(config=config, annotations=wishes)
    probe = (
        "grep CapEff /proc/self/status; ls /sys/class/net; ls -d /host; wc -l < /proc/self/uid_map"
    )
    plain = base_engine.run(image, ["sh", "-c", probe])
    words = plain.stdout.decode().split()
    assert int(words[1], 16) == capabilities.mask(capabilities.DEFAULT)
    assert words[2:] == ["lo", "1"]
    container = base_engine.start(RunRequest(image=image, argv=("true",), labels={"remove": "1"}))
    container.wait(20)
    known = container.inspect()
    assert (known.status, known.network) == ("exited", "none")
    assert known.labels == {**wishes, "remove": "1"}
    container.remove()
