"""A small machine of our own as root directory; the real one where its Python has to run."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cellblock_engine.errors import StoreFull, Unsupported
from cellblock_engine.hostimage import HostTree, Interpreter, host_image
from cellblock_engine.hostimage import etc as policy
from cellblock_engine.layout import Layout
from cellblock_engine.linux import syscalls
from support.capabilities import CAP_SYS_ADMIN, need_capability

PASSWD = (
    "root:$6$hash:0:0:root:/root:/bin/bash\n"
    "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
    "alice:x:1000:1000:Alice Doe,,,:/home/alice:/bin/bash\n"
    "service:x:999:999::/:/bin/false\n"
    "broken line\n"
    "+::::::\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
)
GROUP = "root:x:0:\nsudo:x:27:alice,bob\ndocker:x:998:alice\nalice:x:1000:\n"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n"

SECRETS = {
    "etc/shadow": "root:hash",
    "etc/shadow-": "root:hash",
    "etc/gshadow": "x",
    "etc/passwd-": PASSWD,
    "etc/subuid": "alice:100000:65536",
    "etc/machine-id": "0123",
    "etc/hostname": "secret-host",
    "etc/hosts": "10.0.0.1 secret-host",
    "etc/resolv.conf": "nameserver 10.0.0.1",
    "etc/environment": "AWS_SECRET_ACCESS_KEY=x",
    "etc/fstab": "//server/share /mnt cifs password=x",
    "etc/ssh/ssh_host_rsa_key": KEY,
    "etc/ssh/ssh_host_rsa_key.pub": "ssh-rsa x",
    "etc/ssl/private/ssl-cert.pem": KEY,
    "etc/ssl/certs/server.key": "x",
    "etc/ssl/certs/combined.pem": "cert\n" + KEY.replace("OPENSSH ", ""),
    "etc/docker/key.json": "{}",
    "etc/docker/daemon.json": "{}",
    "etc/kubernetes/admin.conf": "x",
    "etc/aws/config": "x",
    "etc/jupyter/jupyter_server_config.json": "{}",
    "etc/.netrc": "machine x login y password z",
    "etc/pip.conf": "[global]\nindex-url = https://user:hunter2@mirror/simple\n",
    "etc/npmrc": "//registry.example/:_authToken=abc\n",
    "etc/wgetrc": "# http_password = no\nhttp_password = hunter2\n",
    "etc/gitconfig": '[url "https://ghp_abc@github.com/"]\n insteadOf = https://github.com/\n',
    "etc/app/app.conf": "user = x\napi_key = abc\n",
    "etc/sudoers.d/alice": "alice ALL=(ALL) NOPASSWD: ALL",
    "home/alice/.bashrc": "x",
    "root/.ssh/id_rsa": KEY,
    "var/lib/secret": "x",
    "opt/app/secret": "x",
    "srv/data": "x",
}
SEEN = {
    "etc/nsswitch.conf": "passwd: files\n",
    "etc/ssl/certs/ca-certificates.crt": "-----BEGIN CERTIFICATE-----\n",
    "etc/ssl/openssl.cnf": "challengePassword = A challenge password\n",
    "etc/pam.d/common-password": "password required pam_unix.so\n",
    "etc/login.defs": "PASS_MAX_DAYS 99999\n",
    "etc/condarc": "channels: [conda-forge]\n",
    "etc/profile.d/lang.sh": "# see https://example.org/a@b\nexport A=1\n",
}


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o644)


@pytest.fixture(name="machine")
def _machine(tmp_path):
    """A merged-usr machine with a venv below /srv on a Python in /opt, and many secrets."""
    root = tmp_path / "machine"
    for name in ("bin", "lib", "local/bin"):
        (root / "usr" / name).mkdir(parents=True)
    for name in ("bin", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    write(root, {"etc/passwd": PASSWD, "etc/group": GROUP, **SECRETS, **SEEN})
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    (root / "opt/python/3.12.1/bin").mkdir(parents=True)
    (root / "opt/python/3.12.1/bin/python3.12").write_text("")
    (root / "opt/python/3.12").symlink_to("3.12.1")
    (root / "work/venv/bin").mkdir(parents=True)
    (root / "work/venv/bin/python").symlink_to("/opt/python/3.12/bin/python3.12")
    return root


VENV = Interpreter("/work/venv/bin/python", ("/work/venv", "/opt/python/3.12"))


@pytest.fixture(name="layout")
def _layout(tmp_path):
    return Layout(tmp_path / "store", tmp_path / "run")


def contents(tree):
    """Return every regular file below ``tree`` as path -> text."""
    return {
        str(path.relative_to(tree)): path.read_text()
        for path in tree.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


@pytest.mark.attack(18)
def test_what_everybody_may_read_is_there_and_secrets_are_not(machine, layout):
    image = host_image(layout, interpreter=VENV, root=machine)
    found = contents(image.skeleton)
    assert {name: found.get(name) for name in SEEN} == SEEN
    assert sorted(set(found) & set(SECRETS)) == []
    assert set(found) == {*SEEN, "etc/passwd", "etc/group"}
    everything = "".join(found.values())
    for word in ("hunter2", "PRIVATE KEY", "alice", "bob", "$6$", "secret-host", "ghp_", "abc"):
        assert word not in everything


def test_files_that_others_cannot_read_are_left_out(machine, layout):
    write(machine, {"etc/app/mine": "x", "etc/closed/inside": "x", "etc/half/inside": "x"})
    (machine / "etc/app/mine").chmod(0o640)
    (machine / "etc/closed").chmod(0o750)
    (machine / "etc/half").chmod(0o711)
    found = contents(host_image(layout, interpreter=VENV, root=machine).skeleton)
    assert not {"etc/app/mine", "etc/closed/inside", "etc/half/inside"} & set(found)


def test_accounts_are_those_of_the_system_without_hashes_or_members(machine, layout):
    found = contents(host_image(layout, interpreter=VENV, root=machine).skeleton)
    assert found["etc/passwd"] == (
        "root:x:0:0:root:/root:/bin/bash\n"
        "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
        "service:x:999:999::/:/bin/false\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    )
    assert found["etc/group"] == "root:x:0:\nsudo:x:27:\ndocker:x:998:\n"


def test_the_tree_has_the_places_of_a_root_file_system(machine, layout):
    tree = host_image(layout, interpreter=VENV, root=machine).skeleton
    modes = {
        name: stat.S_IMODE((tree / name).lstat().st_mode)
        for name in ("", "tmp", "var/tmp", "root", "home", "proc", "usr", "work", "work/venv")
    }
    assert modes == {
        "": 0o755,
        "tmp": 0o1777,
        "var/tmp": 0o1777,
        "root": 0o755,
        "home": 0o755,
        "proc": 0o755,
        "usr": 0o755,
        "work": 0o755,
        "work/venv": 0o755,
    }
    assert str((tree / "bin").readlink()) == "usr/bin"
    assert str((tree / "var/run").readlink()) == "../run"
    assert str((tree / "etc/os-release").readlink()) == "../usr/lib/os-release"
    for name in ("home", "root", "tmp", "srv", "opt/app", "var/lib", "var/cache", "usr"):
        assert not (tree / name).exists() or list((tree / name).iterdir()) == []


def test_modes_do_not_depend_on_the_umask(machine, layout):
    (machine / "etc/profile.d/lang.sh").chmod(0o4755)
    before = os.umask(0o077)
    try:
        tree = host_image(layout, interpreter=VENV, root=machine).skeleton
    finally:
        os.umask(before)
    assert stat.S_IMODE((tree / "etc/ssl").stat().st_mode) == 0o755
    assert stat.S_IMODE((tree / "etc/nsswitch.conf").stat().st_mode) == 0o644
    assert stat.S_IMODE((tree / "etc/profile.d/lang.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE(layout.host_images.stat().st_mode) == 0o700


def test_trees_are_the_userland_and_the_prefixes_where_they_really_are(machine, layout):
    image = host_image(layout, interpreter=VENV, root=machine)
    assert image.overlays == tuple(
        HostTree(machine / path, f"/{path}", None)
        for path in ("usr", "opt/python/3.12.1", "work/venv")
    )
    assert image.overlays[0].lowers == (machine / "usr",)
    # The link in the middle of the venv's own link has to be there too.
    assert str((image.skeleton / "opt/python/3.12").readlink()) == "3.12.1"
    assert image.python == "/work/venv/bin/python"
    assert image.config.cmd == ("/work/venv/bin/python",)


def test_a_prefix_inside_another_is_not_mounted_twice(machine, layout):
    (machine / "usr/local/bin/python3").write_text("")
    inner = Interpreter(
        "/usr/local/bin/python3", ("/usr/local", "/usr"), user_site="/work/venv/lib/site"
    )
    (machine / "work/venv/lib/site").mkdir(parents=True)
    targets = [t.target for t in host_image(layout, interpreter=inner, root=machine).overlays]
    assert targets == ["/usr", "/work/venv/lib/site"]
    both = Interpreter("/work/venv/bin/python", ("/work/venv", "/work/venv/inner", "/usr"))
    targets = [t.target for t in host_image(layout, interpreter=both, root=machine).overlays]
    assert targets == ["/usr", "/opt/python/3.12.1", "/work/venv"]


def test_a_machine_without_merged_usr_has_its_own_bin_and_lib(machine, layout):
    for name in ("bin", "lib"):
        (machine / name).unlink()
        (machine / name).mkdir()
    (machine / "lib64").mkdir()
    image = host_image(layout, interpreter=VENV, root=machine)
    targets = [tree.target for tree in image.overlays]
    assert targets[:4] == ["/usr", "/bin", "/lib", "/lib64"]
    assert all((image.skeleton / target[1:]).is_dir() for target in targets)


@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        ("/", "a directory of the system"),
        ("/etc", "a directory of the system"),
        ("/home", "a directory of the system"),
        ("/home/alice", "a home directory"),
        ("/root", "a directory of the system"),
        ("/proc/self", "a directory of the system"),
        ("/work/../root", "a directory of the system"),
        ("/link-to-root", "a directory of the system"),
    ],
)
def test_a_prefix_that_shows_too_much_is_refused_in_one_line(machine, layout, prefix, why):
    (machine / "link-to-root").symlink_to("/")
    with pytest.raises(Unsupported, match=why) as caught:
        host_image(
            layout,
            interpreter=Interpreter("/usr/local/bin/python", (prefix,)),
            root=machine,
        )
    assert "\n" not in str(caught.value)
    assert not layout.home.exists()


def test_the_home_of_the_environment_is_refused(machine, layout, monkeypatch):
    monkeypatch.setenv("HOME", "/work/people/carol")
    (machine / "work/people/carol").mkdir(parents=True)
    for prefix in ("/work/people/carol", "/work/people", "/work"):
        with pytest.raises(Unsupported, match="a home directory"):
            host_image(
                layout,
                interpreter=Interpreter("/usr/local/bin/python", (prefix,)),
                root=machine,
            )
    below = Interpreter("/work/people/carol/venv/bin/python", ("/work/people/carol/venv",))
    image = host_image(layout, interpreter=below, root=machine)
    assert [tree.target for tree in image.overlays] == ["/usr", "/work/people/carol/venv"]


def test_a_prefix_that_holds_the_store_is_refused(machine, tmp_path):
    inside = Layout(Path("/work/venv/share/cellblock"), tmp_path / "run")
    with pytest.raises(Unsupported, match="set CELLBLOCK_HOME to a directory elsewhere"):
        host_image(inside, interpreter=VENV, root=machine)
    below_usr = Layout(Path("/usr/local/store"), tmp_path / "run")
    with pytest.raises(Unsupported, match="cannot show /usr"):
        host_image(below_usr, interpreter=VENV, root=machine)


def test_loops_of_links_end(machine, layout):
    (machine / "work/a").symlink_to("b")
    (machine / "work/b").symlink_to("a")
    with pytest.raises(Unsupported, match="loop of symbolic links"):
        host_image(layout, interpreter=Interpreter("/work/a/bin/x", ("/work/a",)), root=machine)


def test_special_files_and_large_ones_do_not_stop_or_hang_it(machine, layout):
    os.mkfifo(machine / "etc/fifo", 0o644)
    with (machine / "etc/large").open("wb") as stream:
        stream.truncate(policy.MAX_FILE_BYTES + 1)
    (machine / "etc/large").chmod(0o644)
    (machine / "etc/loop").symlink_to("loop")
    (machine / "etc/out").symlink_to("/root/.ssh/id_rsa")
    (machine / "etc/odd\udcff\nname").write_text("x")
    (machine / "etc/odd\udcff\nname").chmod(0o644)
    tree = host_image(layout, interpreter=VENV, root=machine).skeleton
    assert not (tree / "etc/fifo").exists()
    assert not (tree / "etc/large").exists()
    assert (
        str((tree / "etc/out").readlink()) == "/root/.ssh/id_rsa"
    )  # the link, never what it leads to
    assert (tree / "etc/odd\udcff\nname").read_text() == "x"


def test_the_whole_is_capped(machine, layout, monkeypatch):
    monkeypatch.setattr(policy, "MAX_TOTAL_BYTES", 300)
    tree = host_image(layout, interpreter=VENV, root=machine).skeleton
    assert sum(map(len, contents(tree).values())) <= 300


@pytest.mark.attack(18)
def test_credentials_in_a_prefix_are_hidden_by_whiteouts(machine, layout):
    write(
        machine,
        {
            "work/venv/etc/jupyter/jupyter_server_config.json": "{}",
            "work/venv/etc/other": "",
            "work/venv/pip.conf": "[global]\nindex-url=https://u:p@host/\n",
            "usr/local/pip.conf": "[global]\ntimeout = 3\n",
            "opt/python/3.12.1/.condarc": "channels: [https://conda/t/x]\ntoken: abc\n",
        },
    )
    (machine / "work/venv/etc").chmod(0o775)
    image = host_image(layout, interpreter=VENV, root=machine)
    usr, python, venv = image.overlays
    assert usr.mask is None
    assert venv.lowers == (machine / "work/venv", venv.mask)
    hidden = {
        str(path.relative_to(tree.mask)): path.lstat().st_rdev
        for tree in (python, venv)
        for path in tree.mask.rglob("*")
        if stat.S_ISCHR(path.lstat().st_mode)
    }
    assert hidden == {".condarc": 0, "etc/jupyter": 0, "pip.conf": 0}
    assert stat.S_IMODE((venv.mask / "etc").stat().st_mode) == 0o775
    assert not (venv.mask / "etc/other").exists()


def test_a_mask_never_covers_a_link_with_a_directory(machine, layout):
    write(machine, {"work/elsewhere/jupyter/x": "", "work/venv/real/jupyter/x": ""})
    (machine / "work/venv/etc").symlink_to("../elsewhere")
    venv = host_image(layout, interpreter=VENV, root=machine).overlays[2]
    assert venv.mask is None
    (machine / "work/venv/etc").unlink()
    (machine / "work/venv/etc").symlink_to("real")
    venv = host_image(layout, interpreter=VENV, root=machine).overlays[2]
    assert stat.S_ISCHR((venv.mask / "real/jupyter").lstat().st_mode)
    assert not (venv.mask / "etc").exists()


def test_nothing_of_the_environment_goes_in(machine, layout, monkeypatch):
    monkeypatch.setenv("JUPYTER_TOKEN", "t0ken")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "t0ken")
    config = host_image(layout, interpreter=VENV, root=machine).config
    assert config.env == (
        "PATH=/work/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
    )
    assert config.entrypoint == ()


def test_an_unchanged_machine_gives_the_same_tree_without_building(machine, layout):
    first = host_image(layout, interpreter=VENV, root=machine)
    inode = first.skeleton.stat().st_ino
    assert host_image(layout, interpreter=VENV, root=machine) == first
    assert first.skeleton.stat().st_ino == inode
    assert list(layout.staging.iterdir()) == []


def test_a_changed_machine_gives_another_tree_and_leaves_the_old_one(machine, layout):
    first = host_image(layout, interpreter=VENV, root=machine)
    write(machine, {"etc/profile.d/new.sh": "export B=2\n"})
    second = host_image(layout, interpreter=VENV, root=machine)
    assert second.skeleton != first.skeleton
    assert (second.skeleton / "etc/profile.d/new.sh").read_text() == "export B=2\n"
    assert first.skeleton.is_dir()
    (machine / "etc/profile.d/new.sh").unlink()
    assert host_image(layout, interpreter=VENV, root=machine) == first


def test_a_new_mask_is_noticed(machine, layout):
    first = host_image(layout, interpreter=VENV, root=machine)
    assert first.overlays[2].mask is None
    write(machine, {"work/venv/etc/jupyter/x": ""})
    assert host_image(layout, interpreter=VENV, root=machine).overlays[2].mask is not None


def test_a_file_changed_in_place_is_noticed_within_a_minute(machine, layout):
    first = host_image(layout, interpreter=VENV, root=machine)
    with (machine / "etc/nsswitch.conf").open("w") as stream:
        stream.write("passwd: none\n")
    (machine / "etc/login.defs").chmod(0o600)
    (lists,) = layout.host_images.glob("*.files")
    os.utime(lists, (time.time() - 61, time.time() - 61))
    second = host_image(layout, interpreter=VENV, root=machine)
    assert (second.skeleton / "etc/nsswitch.conf").read_text() == "passwd: none\n"
    assert not (second.skeleton / "etc/login.defs").exists()
    assert first.skeleton.is_dir()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"skeleton": 3}', b'{"skeleton": "gone"}'])
def test_a_damaged_record_only_costs_a_build(machine, layout, damage):
    first = host_image(layout, interpreter=VENV, root=machine)
    (record,) = layout.host_images.glob("*.json")
    record.write_bytes(damage)
    assert host_image(layout, interpreter=VENV, root=machine) == first
    assert json.loads(record.read_text())["skeleton"] == first.skeleton.parent.name


def test_many_builders_at_once_agree_and_leave_one_tree(machine, layout):
    start, go = os.pipe()
    children = []
    for _ in range(6):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(go)
                os.read(start, 1)
                image = host_image(layout, interpreter=VENV, root=machine)
                status = 0 if (image.skeleton / "etc/passwd").is_file() else 2
            finally:
                os._exit(status)
        children.append(pid)
    os.close(start)
    os.close(go)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 6
    assert len([entry for entry in layout.host_images.iterdir() if entry.is_dir()]) == 1
    assert list(layout.staging.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(machine, tmp_path):
    need_capability(CAP_SYS_ADMIN, "CAP_SYS_ADMIN")
    small = tmp_path / "small"
    small.mkdir()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount(None, b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
            syscalls.mount(b"tmpfs", os.fsencode(small), b"tmpfs", 0, b"size=64k,nr_inodes=40")
            layout = Layout(small / "store", tmp_path / "run")
            try:
                host_image(layout, interpreter=VENV, root=machine)
            except StoreFull as error:
                clean = not list(layout.staging.iterdir()) and not list(
                    layout.host_images.iterdir()
                )
                status = 0 if clean and "\n" not in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_this_machines_python_runs_inside_with_its_packages(layout, tmp_path):
    """Mount it all in a mount namespace of our own, change the root, and run the interpreter."""
    need_capability(CAP_SYS_ADMIN, "CAP_SYS_ADMIN")
    image = host_image(layout)
    code = (
        "import json, os, sys, pandas\n"
        "print(json.dumps([sys.prefix, sys.base_prefix, pandas.__name__, os.listdir('/home'),"
        " os.path.exists('/etc/shadow'), os.path.exists(sys.prefix + '/etc/jupyter'),"
        " os.path.exists('/etc/ld.so.cache')]))\n"
    )
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount(None, b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
            scratch = tmp_path / "scratch"
            scratch.mkdir()
            syscalls.mount(b"tmpfs", os.fsencode(scratch), b"tmpfs", 0, None)
            new_root = scratch / "root"
            new_root.mkdir()
            trees = [("/", (image.skeleton,))]
            trees += [(tree.target, tree.lowers) for tree in image.overlays]
            for number, (target, lowers) in enumerate(trees):
                upper, work = scratch / f"upper-{number}", scratch / f"work-{number}"
                upper.mkdir()
                work.mkdir()
                stack = ":".join(map(str, reversed(lowers)))
                options = f"lowerdir={stack},upperdir={upper},workdir={work}"
                place = os.fsencode(f"{new_root}{target}")
                syscalls.mount(b"overlay", place, b"overlay", 0, options.encode())
            os.chroot(new_root)
            os.chdir("/")
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            env = dict(entry.split("=", 1) for entry in image.config.env)
            os.execve(image.python, [image.python, "-c", code], env)
        finally:
            os._exit(70)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    assert os.waitpid(pid, 0)[1] == 0, said
    assert json.loads(said) == [sys.prefix, sys.base_prefix, "pandas", [], False, False, True]


def test_the_real_machines_skeleton_has_no_secrets(layout):
    tree = host_image(layout).skeleton
    names = {str(path.relative_to(tree)) for path in tree.rglob("*")}
    assert "etc/passwd" in names
    for path in ("etc/shadow", "etc/gshadow", "etc/machine-id", "etc/hostname", "etc/hosts"):
        assert path not in names
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert b"PRIVATE KEY-----" not in path.read_bytes()


def test_an_ordinary_user_builds_its_own(ordinary_user):
    code = (
        "from pathlib import Path\n"
        "from cellblock_engine.hostimage import host_image\n"
        "from cellblock_engine.layout import Layout\n"
        "image = host_image(Layout.default())\n"
        "again = host_image(Layout.default())\n"
        "print(again == image, (image.skeleton / 'etc/passwd').is_file(),"
        " (image.skeleton / 'etc/shadow').exists(), image.python)\n"
        "print(*[tree.target for tree in image.overlays])\n"
    )
    done = ordinary_user.run_python(code)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == f"True True False {ordinary_user.python}"
    assert "/usr" in second.split()
    assert str(ordinary_user.home) not in second.split()


def test_it_imports_nothing_heavy():
    code = (
        "import cellblock_engine.hostimage, sys\n"
        "print('pandas' in sys.modules, 'asyncio' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
