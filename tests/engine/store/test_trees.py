import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import cellblock_engine
from cellblock_engine.store.trees import remove_tree

ENGINE = str(Path(cellblock_engine.__file__).parents[1])


def test_nothing_there_is_no_error(tmp_path: Path):
    remove_tree(tmp_path / "missing")
    remove_tree(tmp_path / "missing" / "below")


def test_files_and_links_are_removed_and_links_not_followed(tmp_path: Path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "link").symlink_to(kept)
    (tree / "sub" / "up").symlink_to("..")
    (tree / "file").write_text("x")
    os.mkfifo(tree / "fifo")
    remove_tree(tree)
    assert not tree.exists()
    (tmp_path / "link").symlink_to(kept)
    remove_tree(tmp_path / "link")
    assert os.listdir(tmp_path) == ["kept"]
    assert (kept / "file").read_text() == "x"


@pytest.mark.parametrize("as_what", [os.fspath, os.fsencode, lambda path: f"{path}/"])
def test_paths_of_any_form(tmp_path: Path, as_what):
    (tmp_path / "d" / "e").mkdir(parents=True)
    remove_tree(as_what(tmp_path / "d"))
    assert os.listdir(tmp_path) == []


@pytest.mark.attack(40)
def test_hostile_names(tmp_path: Path):
    tree = os.fsencode(tmp_path / "tree")
    for name in (b"new\nline", b"\xff\xfe", b"-rf", b" ", b"n" * 255, b"a\\b"):
        os.makedirs(os.path.join(tree, name, name))
        with open(os.path.join(tree, name, b"f" + name[:200]), "wb"):
            pass
    remove_tree(tree)
    assert os.listdir(tmp_path) == []


@pytest.mark.attack(41)
def test_ten_thousand_levels():
    directory = tempfile.mkdtemp(dir="/dev/shm")  # a disk takes ten seconds to make them
    fd = os.open(directory, os.O_RDONLY)
    for _ in range(10_000):
        os.mkdir(b"d", dir_fd=fd)
        below = os.open(b"d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open(b"f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    remove_tree(directory)
    assert not Path(directory).exists()
    assert len(os.listdir("/proc/self/fd")) == before


def test_closed_directories_as_an_ordinary_user():
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        tree = Path(directory) / "tree"
        (tree / "a" / "b").mkdir(parents=True)
        (tree / "a" / "b" / "f").write_text("x")
        (tree / "c").mkdir()
        for path in (tree / "a" / "b" / "f", tree / "a" / "b", tree / "c", tree / "a", tree):
            path.chmod(0)
            if os.geteuid() == 0:
                os.chown(path, 1000, 1000)
        if os.geteuid() == 0:
            os.chown(directory, 1000, 1000)
        if (pid := os.fork()) == 0:
            try:
                if os.geteuid() == 0:
                    os.setgid(1000)
                    os.setuid(1000)
                remove_tree(tree)
            finally:
                os._exit(int(tree.exists()))
        assert os.waitpid(pid, 0)[1] == 0
        assert os.listdir(directory) == []


def test_two_may_remove_the_same_tree_at_once(tmp_path: Path):
    tree = tmp_path / "tree"
    for outer in range(12):
        for inner in range(12):
            (tree / str(outer) / str(inner) / "deep").mkdir(parents=True)
            for number in range(6):
                (tree / str(outer) / str(inner) / "deep" / str(number)).touch()
    barrier = threading.Barrier(4)

    def remove() -> None:
        barrier.wait()
        remove_tree(tree)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(remove) for _ in range(4)]:
            done.result()
    assert not tree.exists()


def test_it_imports_little():
    code = (
        "import cellblock_engine, sys; before = set(sys.modules)\n"
        "import cellblock_engine.store.trees\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    argv = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({ENGINE!r})\n{code}"]
    found = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert found == ["cellblock_engine.store", "cellblock_engine.store.trees", "errno"]
