"""Kernels of a real image from a registry, which has its distribution's own ipykernel."""

from __future__ import annotations

import os

import pytest

from cellblock_engine import Engine
from support import images, kernels
from support.kernels import install, installed, interrupted, run
from support.layouts import LayoutWriter, small_tar
from support.registry import Registry


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("image")) as made:
        yield made


@pytest.fixture(scope="module")
def image(registry: Registry) -> str:
    return registry.push(images.kernel_layout(), "ipykernel")


def test_an_image_is_pulled_pinned_and_run_until_it_is_removed(site, image, base_image, registry):
    done = install("--name", "real", image)
    spec = installed(done)["real"]
    with Engine.open(site.home) as engine:
        assert spec["metadata"]["cellblock"]["digest"] == str(engine.image(image).id)
    with site.kernel("real") as (km, kc):
        # The image's own Python and system, not this machine's, and none of its network.
        assert run(kc, "import sys; print(sys.executable, sys.prefix)") == "/usr/bin/python3 /usr\n"
        said = run(kc, "import ipykernel, socket; print(socket.if_nameindex())")
        assert said == "[(1, 'lo')]\n"
        run(kc, "open('here', 'w').write('written'); open('/root/kept', 'w').write('kept')")
        assert (site.folder / "here").read_text() == "written"
        assert (site.folder / "here").stat().st_uid == os.getuid()
        km.restart_kernel()
        kc.wait_for_ready(timeout=kernels.ANSWER_S)
        assert run(kc, "print(open('/root/kept').read())") == "kept\n"
        assert "KeyboardInterrupt" in interrupted(km, kc, "import time; time.sleep(20)")
    site.assert_gone()
    # A tag that moves to another image changes nothing.
    registry.push(images.base_layout(), "ipykernel")
    with Engine.open(site.home) as engine:
        engine.pull(image)
    with site.kernel("real") as (_, kc):
        assert run(kc, "print('still')") == "still\n"
    with Engine.open(site.home) as engine:
        held = engine.image(spec["metadata"]["cellblock"]["digest"])
        assert [each.tag for each in held.references] == [None]  # held by its digest alone
        engine.remove_image(str(held.id), force=True)
    with pytest.raises(RuntimeError, match="is not in the store") as refused, site.kernel("real"):
        pass
    assert "\n" not in str(refused.value)
    site.assert_gone()


def test_an_image_without_python_is_refused_in_one_line(site, registry, tmp_path):
    writer = LayoutWriter(tmp_path / "empty")
    writer.image([writer.layer(small_tar(tmp_path / "one.tar", {"file": b"text"}))])
    reference = registry.push(writer.directory, "nopython")
    done = install("--name", "none", reference)
    assert done.returncode == 125
    *_, line = done.stderr.splitlines()  # after those of the pull
    assert line.startswith(f"cellblock: image {reference} has no Python and no other kernel: ")
    with Engine.open(site.home) as engine:
        assert engine.containers() == ()


def test_a_kernel_is_committed_while_it_runs_and_its_image_is_a_kernel(site, image):
    install("--name", "before", image)
    with site.kernel("before") as (_, kc):
        run(kc, "open('/opt/made', 'w').write('made'); open('mine', 'w').write('workspace')")
        said = dict(
            line.split(":", 1) for line in run(kc, "%container commit mine/made:1").splitlines()
        )
        assert 0 < float(said["stood still"].split()[0]) < 5
        assert run(kc, "print('goes on')") == "goes on\n"
    with Engine.open(site.home) as engine:
        made = engine.image("mine/made:1")
        assert said["image"].strip() == str(made.id)
        listed = engine.run("mine/made:1", ["find", "/opt", "/run", "-type", "f,s"])
        assert listed.stdout.splitlines() == [b"/opt/made"]
        assert engine.run("mine/made:1", ["find", "/", "-xdev", "-name", "mine"]).stdout == b""
    done = install("--name", "after", "mine/made:1")
    assert "after" in installed(done)
    with site.kernel("after") as (_, kc):
        assert run(kc, "print(open('/opt/made').read())") == "made\n"
    site.assert_gone()
