"""Which pip installs, and under whose settings: run as inside, by this machine's Python."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from cellblock_kernel.guest import installer


@pytest.fixture
def having(tmp_path, monkeypatch):
    """Let a Python have these modules and wheels, and nothing more."""

    def have(*modules: str, wheel: str = "", distribution: str = "") -> None:
        folder = tmp_path / "ensurepip"
        (folder / "_bundled").mkdir(parents=True)
        (tmp_path / "wheels").mkdir()
        if wheel:
            (folder / "_bundled" / wheel).touch()
        if distribution:
            (tmp_path / "wheels" / distribution).touch()
        origin = SimpleNamespace(origin=str(folder / "__init__.py"))
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: origin if name in modules else None
        )
        wheels = str(tmp_path / "wheels") if distribution else None
        monkeypatch.setattr(sysconfig, "get_config_var", {"WHEEL_PKG_DIR": wheels}.get)

    return have


def test_its_own_pip_goes_first(having):
    having("pip", "ensurepip", wheel="pip-1-none.whl")
    assert installer.pip("/borrowed") == ["-m", "pip"]


def test_then_that_which_its_python_brings(having, tmp_path):
    having("ensurepip", wheel="pip-1-none.whl")
    assert installer.pip("/borrowed") == [f"{tmp_path}/ensurepip/_bundled/pip-1-none.whl/pip"]


def test_which_a_distribution_may_keep_elsewhere(having, tmp_path):
    having("ensurepip", wheel="pip-1-none.whl", distribution="pip-2-none.whl")
    assert installer.pip("/borrowed") == [f"{tmp_path}/wheels/pip-2-none.whl/pip"]


def test_then_the_borrowed_one(having):
    having("ensurepip")  # as Debian has it, without a wheel
    assert installer.pip("/borrowed") == ["/borrowed/__pip-runner__.py"]
    with pytest.raises(SystemExit, match="neither the image nor this machine's Python has pip"):
        installer.pip("")


def test_what_the_image_sets_for_pip_does_not_count(tmp_path):
    runner = tmp_path / "__pip-runner__.py"
    runner.write_text("import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))")
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True, timeout=60)
    text = Path(installer.__file__).read_text()
    # Without ensurepip, whatever this machine's Python brings along.
    text = text.replace('find_spec("ensurepip")', 'find_spec("no_ensurepip")')
    settings = json.dumps({"PIP_INDEX_URL": "https://one.example"})
    done = subprocess.run(
        [bare / "bin" / "python", "-c", text, settings, str(tmp_path), "ipykernel"],
        env={"PIP_TARGET": "/elsewhere", "PYTHONPATH": str(tmp_path), "LANG": "C.UTF-8"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    words, env = json.loads(done.stdout)
    assert words == ["install", "ipykernel"]
    assert {"PIP_INDEX_URL", "LANG"} <= env.keys()
    assert not {"PIP_TARGET", "PYTHONPATH"} & env.keys()
