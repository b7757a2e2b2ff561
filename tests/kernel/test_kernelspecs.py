"""Kernelspecs: what they say, where they go, and whose are left alone."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from cellblock_engine import CommandNotFound, Conflict, InvalidInput, NotFound
from cellblock_kernel import (
    KernelOptions,
    install_kernelspecs,
    installed_kernelspecs,
    remove_kernelspec,
    remove_kernelspecs_of,
)
from cellblock_kernel.kernelspecs.spec import options_of

DIGEST = "sha256:" + "a" * 64


class Images:
    """An engine that has one image, whose Pythons end as told, and which lists as told."""

    home = Path("/store/of/tests")

    def __init__(self, listing: bytes = b"", **status: int) -> None:
        self.listing, self.status, self.ran = listing, status, []

    def image(self, name):
        return SimpleNamespace(id=DIGEST)

    def hold_image(self, name):
        self.held = name

    def run(self, image, argv, **how):
        self.ran.append((image, argv[0], how))
        verdict = None if argv[0] in self.status else CommandNotFound("no such command")
        return SimpleNamespace(check=lambda: self._checked(argv[0], verdict))

    def _checked(self, python, verdict):
        if verdict is not None:
            raise verdict
        return SimpleNamespace(
            exit_code=self.status[python], stdout=self.listing, stderr=b"Traceback\nboom\n"
        )


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    return tmp_path / "data" / "kernels"


def test_a_spec_pins_the_image_and_is_found_by_jupyter(data):
    engine = Images(python=0)
    options = KernelOptions(image="py:1", memory="64m", cpus=0.5, network="host", workspace="ro")
    (path,) = install_kernelspecs(engine, options, "user", name="Boxed")
    assert path == data / "boxed"
    assert engine.ran[-1][:2] == (DIGEST, "python")
    assert engine.held == DIGEST
    assert engine.ran[-1][2]["limits"].memory_bytes == 64 << 20
    spec = KernelSpecManager().get_kernel_spec("boxed")
    assert spec.metadata["kernel_provisioner"] == {"provisioner_name": "cellblock", "config": {}}
    assert spec.metadata["cellblock"] == {
        "image": "py:1",
        "digest": DIGEST,
        "store": "/store/of/tests",
    }
    assert (spec.language, spec.interrupt_mode, spec.metadata["debugger"]) == (
        "python",
        "signal",
        True,
    )
    gate = options_of(spec.argv)
    assert (gate.kernel.image, gate.kernel.memory, gate.kernel.cpus) == (DIGEST, "64m", 0.5)
    assert gate.argv == ("python", "-m", "ipykernel_launcher", "-f", "{connection_file}")
    logos = sorted(file.name for file in path.glob("logo-*"))
    assert logos == ["logo-32x32.png", "logo-64x64.png", "logo-svg.svg"]


def test_a_spec_of_ours_is_replaced_and_others_are_not(data):
    engine = Images(python3=0)
    install_kernelspecs(engine, KernelOptions(image="py"), "user", name="a")
    install_kernelspecs(engine, KernelOptions(image="py", memory="1g"), "user", name="a")
    (row,) = (row for row in installed_kernelspecs() if row.name == "a")
    assert row.limits == "memory=1g"
    theirs = data / "theirs"
    theirs.mkdir()
    (theirs / "kernel.json").write_text('{"argv": ["x"], "display_name": "X", "language": "x"}')
    with pytest.raises(Conflict, match="choose another --name"):
        install_kernelspecs(engine, KernelOptions(image="py"), "user", name="theirs")
    with pytest.raises(Conflict, match="not cellblock's"):
        remove_kernelspec("theirs")
    assert json.loads((theirs / "kernel.json").read_text())["argv"] == ["x"]
    assert sorted(each.name for each in data.iterdir()) == ["a", "theirs"]


def test_a_spec_with_variables_is_its_owners_alone(data):
    for name, env, mode in (("open", (), 0o644), ("shut", ("TOKEN=x",), 0o600)):
        options = KernelOptions(image="py", env=env)
        (path,) = install_kernelspecs(Images(python3=0), options, "user", name=name)
        assert stat.S_IMODE((path / "kernel.json").stat().st_mode) == mode
        assert stat.S_IMODE(path.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ({}, "has no Python"),
        ({"python3": 1}, "exit status 1: boom"),
    ],
)
def test_an_image_that_is_no_kernel_is_refused(data, status, message):
    with pytest.raises(InvalidInput, match=message):
        install_kernelspecs(Images(**status), KernelOptions(image="py"), "user")
    assert not data.exists()


def listing(**kernels: object) -> bytes:
    return b"".join(
        b"/k/%s/kernel.json\n%s\0" % (name.encode(), json.dumps(spec).encode())
        for name, spec in kernels.items()
    )


R = {
    "argv": ["R", "-e", "IRkernel::main()", "{connection_file}"],
    "display_name": "R",
    "language": "R",
    "interrupt_mode": "message",
    "env": {"LD_PRELOAD": "/evil.so", "WHO": "image"},
    "metadata": {"kernel_provisioner": {"provisioner_name": "local-provisioner"}},
}
NATIVE = {
    "argv": ["/opt/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    "display_name": "Native",
    "language": "python",
}


@pytest.mark.parametrize(
    ("python", "kernel", "name", "installed"),
    [
        ({"python3": 0}, None, None, {"cellblock-lab": "python3", "cellblock-lab-r": "R"}),
        ({"python3": 0}, None, "a", {"a": "python3", "a-r": "R"}),
        ({"python3": 0}, "r", None, {"cellblock-lab-r": "R"}),
        ({"python3": 0}, "R", "a", {"a": "R"}),
        ({"python3": 0}, "python3", "a", {"a": "python3"}),
        ({"python3": 3}, None, "a", {"a": "/opt/python", "a-r": "R"}),
        ({"sh": 0}, None, None, {"cellblock-lab": "/opt/python", "cellblock-lab-r": "R"}),
    ],
)
def test_an_image_offers_its_other_kernels(data, python, kernel, name, installed):
    engine = Images(listing(r=R, python3=NATIVE), **python)
    paths = install_kernelspecs(
        engine, KernelOptions(image="lab", env=("WHO=user",)), "user", kernel=kernel, name=name
    )
    specs = {path.name: KernelSpecManager().get_kernel_spec(path.name) for path in paths}
    assert {each: options_of(spec.argv).argv[0] for each, spec in specs.items()} == installed
    for spec in specs.values():
        gate, ours = options_of(spec.argv), "ipykernel_launcher" in spec.argv
        assert (gate.kernel.image, spec.metadata["debugger"]) == (DIGEST, ours)
        assert spec.metadata["kernel_provisioner"]["provisioner_name"] == "cellblock"
        assert spec.env == {}  # that would be the gate's, which is outside
        if not ours:
            assert (spec.language, spec.interrupt_mode) == ("R", "message")
            assert gate.kernel.env == ("LD_PRELOAD=/evil.so", "WHO=image", "WHO=user")
    rows = {row.name: row.language for row in installed_kernelspecs()}
    assert rows == {each: spec.language for each, spec in specs.items()}


def test_titles_name_the_image(data):
    engine = Images(listing(r=R), python3=0)
    for title, expected in ((None, ["Python in lab", "R in lab"]), ("My", ["My", "R in My"])):
        paths = install_kernelspecs(
            engine, KernelOptions(image="lab"), "user", name="t", display_name=title
        )
        shown = [KernelSpecManager().get_kernel_spec(path.name).display_name for path in paths]
        assert shown == expected


def test_a_kernel_that_is_not_there_is_refused_in_one_line(data):
    engine = Images(listing(r=R), python3=0)
    with pytest.raises(InvalidInput, match="has no kernel julia: it has python3, r"):
        install_kernelspecs(engine, KernelOptions(image="lab"), "user", kernel="julia")
    with pytest.raises(InvalidInput, match="is refused"):
        install_kernelspecs(
            Images(listing(r=R, odd={"argv": 1}), python3=0), KernelOptions(image="lab"), "user"
        )
    assert not data.exists()


def test_of_several_kernels_all_or_none_are_installed(data):
    theirs = data / "a-r"
    theirs.mkdir(parents=True)
    with pytest.raises(Conflict, match="choose another --name"):
        install_kernelspecs(
            Images(listing(r=R), python3=0), KernelOptions(image="lab"), "user", name="a"
        )
    assert [each.name for each in data.iterdir()] == ["a-r"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "../x", "ä"])
def test_names_that_jupyter_does_not_take(name, data):
    if name:
        with pytest.raises(InvalidInput, match="is not valid"):
            install_kernelspecs(Images(python3=0), KernelOptions(image="py"), "user", name=name)
    assert not data.exists()


def test_all_of_ours_are_removed_and_hostile_files_pass(data):
    data.mkdir(parents=True)
    for name, text in (("deep", "[" * 100_000), ("list", "[]"), ("odd", '{"argv": 1}')):
        (data / name).mkdir()
        (data / name / "kernel.json").write_text(text)
    (ours,) = install_kernelspecs(Images(python3=0), KernelOptions(image="py"), "user", name="b")
    assert remove_kernelspecs_of(Path("/another")) == ()
    assert remove_kernelspecs_of(Images.home) == (ours,)
    assert sorted(each.name for each in data.iterdir()) == ["deep", "list", "odd"]
    with pytest.raises(NotFound):
        remove_kernelspec("b")
