"""What kernels an image has, by its Python and by its shell: the same list."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cellblock_kernel.guest import probe as guest
from cellblock_kernel.kernelspecs import probe
from cellblock_kernel.kernelspecs.offers import listed

WAYS = {
    "python": (sys.executable, "-c", probe._SCRIPT.read_text()),
    "shell": ("sh", "-c", probe._SHELL_SCRIPT),
}


@pytest.fixture
def folders(tmp_path):
    """Three folders of data, each with a kernel ``ir`` and one of its own."""
    made = [tmp_path / "a path", tmp_path / "other", tmp_path / ".local" / "share" / "jupyter"]
    for number, folder in enumerate(made):
        for name in ("ir", f"own{number}"):
            (folder / "kernels" / name).mkdir(parents=True)
            (folder / "kernels" / name / "kernel.json").write_text(f'{{"number": {number}}}\n')
    (made[0] / "kernels" / "empty").mkdir()
    return made


@pytest.mark.parametrize("way", WAYS)
def test_kernelspecs_are_found_in_jupyters_order(folders, tmp_path, way):
    env = {"HOME": str(tmp_path), "JUPYTER_PATH": f"{folders[0]}:{folders[1]}:relative"}
    env["PATH"] = "/usr/bin:/bin"
    done = subprocess.run(WAYS[way], env=env, capture_output=True, timeout=60, check=False)
    found = {
        name: (each.folder, each.content)
        for name, each in listed(done.stdout, "x").items()
        if each.folder.startswith(str(tmp_path))
    }
    assert found == {
        "ir": (f"{folders[0]}/kernels/ir", b'{"number": 0}\n'),
        **{
            f"own{n}": (f"{folder}/kernels/own{n}", b'{"number": %d}\n' % n)
            for n, folder in enumerate(folders)
        },
    }


@pytest.mark.parametrize("way", WAYS)
def test_a_giant_is_cut_where_it_is_known_to_be_one(folders, tmp_path, way):
    (folders[2] / "kernels" / "own2" / "kernel.json").write_bytes(b"x" * (1 << 20))
    env = {"PATH": "/usr/bin:/bin", "JUPYTER_DATA_DIR": str(folders[2])}
    done = subprocess.run(WAYS[way], env=env, capture_output=True, timeout=60, check=False)
    assert len(listed(done.stdout, "x")["own2"].content) == guest.MOST_BYTES + 1


def test_the_status_tells_of_ipykernel(tmp_path):
    for words, status in ((["-I"], 0), (["-I", "-S"], guest.LACKING)):
        argv = [sys.executable, *words, "-c", WAYS["python"][2]]
        done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
        assert done.returncode == status
