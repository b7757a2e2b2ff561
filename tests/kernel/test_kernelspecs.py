"""Kernelspecs of kernels in containers, as front ends and people find them."""

from __future__ import annotations

import json
import sys

import pytest

from cellblock_engine import Conflict, InvalidInput, LimitNotEnforceable, NotFound
from cellblock_kernel import KernelOptions, install_kernel, installed_kernels, remove_kernel
from cellblock_kernel.gate.options import parse
from cellblock_kernel.kernelspecs.specs import install, name_for

OPTIONS = KernelOptions(
    memory="1g", cpus=1.5, pids_limit=50, workspace="ro", volume=("/usr:/u:ro",), env=("A=b c",)
)
ARGV = ("python3", "-m", "ipykernel_launcher", "-f", "{connection_file}")


@pytest.fixture(autouse=True)
def _own_jupyter(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.delenv("JUPYTER_PATH", raising=False)


def made(name="boxed", options=OPTIONS, **words):
    return install(options, ARGV, image="host", name=name, display_name="Boxed", **words)


def test_what_is_installed_is_what_is_listed():
    spec = made()
    assert installed_kernels() == (spec,)
    assert (spec.options, spec.argv) == (OPTIONS, ARGV)


def test_a_front_end_finds_command_logos_and_provisioner(tmp_path):
    spec = made()
    document = json.loads((spec.directory / "kernel.json").read_text())
    assert spec.directory == tmp_path / "jupyter" / "kernels" / "boxed"
    assert document["argv"][0] == sys.executable
    at = document["argv"].index("cellblock_kernel.gate") + 1
    told = parse(document["argv"][at:])
    assert (told.kernel, told.argv) == (OPTIONS, ARGV)
    assert document["metadata"]["debugger"] is True
    assert document["metadata"]["supported_encryption"] == ["curve"]
    assert document["metadata"]["kernel_provisioner"]["provisioner_name"] == "cellblock"
    for logo in ("logo-32x32.png", "logo-64x64.png", "logo-svg.svg"):
        assert (spec.directory / logo).stat().st_size > 100


def test_a_spec_with_variables_is_for_its_owner_only():
    assert made().directory.joinpath("kernel.json").stat().st_mode & 0o777 == 0o600
    plain = made(options=KernelOptions())
    assert plain.directory.joinpath("kernel.json").stat().st_mode & 0o777 == 0o644


def test_ours_is_replaced_and_others_are_left_alone(tmp_path):
    made()
    again = made(options=KernelOptions(network="host"))
    assert installed_kernels() == (again,)
    other = tmp_path / "jupyter" / "kernels" / "other"
    other.mkdir()
    (other / "kernel.json").write_text('{"argv": ["python"], "display_name": "o"}')
    with pytest.raises(Conflict, match="not cellblock's: choose another --name"):
        made("other")
    with pytest.raises(Conflict, match="jupyter kernelspec remove removes it"):
        remove_kernel("other")
    assert (other / "kernel.json").exists()
    assert installed_kernels() == (again,)


def test_a_prefix_is_where_it_goes(tmp_path):
    assert made(place=tmp_path / "p").directory == tmp_path / "p/share/jupyter/kernels/boxed"


def test_removal():
    spec = made()
    assert remove_kernel("boxed") == spec.directory
    assert installed_kernels() == ()
    with pytest.raises(NotFound, match="see kernel list"):
        remove_kernel("boxed")


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "x" * 101])
def test_a_name_that_is_none_is_refused(name, tmp_path):
    with pytest.raises(InvalidInput, match="kernel name"):
        made(name)
    assert not (tmp_path / "jupyter").exists()


def test_names_come_from_images():
    assert name_for("host") == "cellblock-host"
    assert (
        name_for("localhost:5000/a/B:1.2@sha256:ab") == "cellblock-localhost-5000-a-b-1.2-sha256-ab"
    )


def test_the_host_image_has_this_python(engine):
    spec = install_kernel(engine, KernelOptions(), image="host")
    assert (spec.name, spec.display_name) == ("cellblock-host", "Python in host")
    assert spec.argv == (sys.executable, *ARGV[1:])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (KernelOptions(memory="lots"), InvalidInput),
        (KernelOptions(memory="1k"), InvalidInput),
        (KernelOptions(network="moon"), InvalidInput),
        (KernelOptions(volume=("/nosuch/folder:/x",)), NotFound),
        (KernelOptions(volume=("/:/x",)), InvalidInput),
        (KernelOptions(cpus=10_000), (InvalidInput, LimitNotEnforceable)),
    ],
)
def test_what_a_start_would_refuse_is_refused_at_once(engine, options, error):
    with pytest.raises(error) as refused:
        install_kernel(engine, options, image="host")
    assert "\n" not in str(refused.value)
    assert installed_kernels() == ()
