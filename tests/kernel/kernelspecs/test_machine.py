"""Which package indexes an image is shown: pip's own, by TLS, without credentials."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cellblock_engine import InvalidInput
from cellblock_kernel.kernelspecs import machine
from cellblock_kernel.kernelspecs.machine import Machine

PYPI = ("https://pypi.org/simple",)


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    """No setting of whoever runs the tests plays a part; return the file that has the tests'."""
    for name in ("INDEX_URL", "EXTRA_INDEX_URL", "CERT", "NO_INDEX"):
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    file = tmp_path / "pip.conf"
    file.write_text("")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return file


def test_variables_go_before_files_and_files_of_this_machine_do_not_count(settings, monkeypatch):
    settings.write_text(
        "[global]\nindex-url = https://one.example/simple\n"
        "extra-index-url =\n    https://two.example:8443/simple\n    file:///opt/simple\n"
        "find-links = /opt/wheels\n"
    )
    read = Machine.read()
    assert read.indexes == ("https://one.example/simple", "https://two.example:8443/simple")
    assert read.hosts == ("one.example:443/private", "two.example:8443/private")
    monkeypatch.setenv("PIP_INDEX_URL", "https://pypi.org/simple/")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    read = Machine.read()
    assert read.indexes == ("https://pypi.org/simple/",)
    assert read.hosts == ("pypi.org", "files.pythonhosted.org")
    monkeypatch.setenv("PIP_INDEX_URL", "file:///opt/simple")
    assert Machine.read().indexes == PYPI


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("https://me:secret@one.example/simple", "needs credentials"),
        ("https://token-secret@one.example/simple", "needs credentials"),
        ("https://me:secret/x@one.example/simple", "not understood"),
        ("https://[secret/simple", "not understood"),
        ("http://one.example/simple", "without TLS"),
    ],
)
@pytest.mark.parametrize("variable", ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"])
def test_indexes_that_no_image_is_shown(variable, index, message, monkeypatch):
    monkeypatch.setenv(variable, index)
    with pytest.raises(InvalidInput, match=message) as refused:
        Machine.read()
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_index_is_no_index(settings):
    settings.write_text("[install]\nno-index = true\n")
    with pytest.raises(InvalidInput, match="no-index"):
        Machine.read()


def test_authorities_to_trust(tmp_path, monkeypatch):
    bundle, other = tmp_path / "bundle.pem", tmp_path / "other.pem"
    for path in (bundle, other):
        path.write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    monkeypatch.setenv("PIP_CERT", "")  # over what this machine's own pip.conf may say
    assert Machine.read().certificates == other
    monkeypatch.setenv("PIP_CERT", str(bundle))
    assert Machine.read().certificates == bundle
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "gone.pem"))
    assert Machine.read().certificates is None


def test_a_python_without_pip_has_its_variables(tmp_path, monkeypatch):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True, timeout=60)
    monkeypatch.setattr(machine.sys, "executable", str(bare / "bin" / "python"))
    monkeypatch.setattr(machine.sys, "_base_executable", str(bare / "bin" / "python"))
    monkeypatch.setenv("PIP_INDEX_URL", "https://one.example/simple")
    read = Machine.read()
    assert (read.indexes, read.pip) == (("https://one.example/simple",), None)


def test_the_notebooks_folder_is_not_asked_for_pip(tmp_path, monkeypatch):
    (tmp_path / "pip.py").write_text("raise SystemExit('asked')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = Machine.read().pip
    assert found is None or not found.is_relative_to(tmp_path)
