"""Images without ipykernel become kernels: it is installed once, by nothing the image says."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys

import nbformat
import pytest

from cellblock_engine import Engine
from cellblock_kernel import KernelOptions, install_kernelspecs
from cellblock_kernel.kernelspecs.preparation import RECIPE
from support import capabilities, images, kernels, packageindex
from support.kernels import install, installed, run
from support.layouts import LayoutWriter, small_tar

pytestmark = pytest.mark.timeout(600)  # an index of the internet may be slow

NOBODY_LISTENS = {"PIP_INDEX_URL": "https://localhost:1/simple"}
SHELL = b"#!/bin/sh\n"
HOSTILE = {
    b"printf '/k/ir/kernel.json\\n'; head -c 3000000 /dev/zero | tr '\\0' x": "larger than 1 MiB",
    b"printf '/k/ir/kernel.json\\n'; head -c 70000 /dev/zero | tr '\\0' x; printf '\\0'": "64 KiB",
    b"timeout 5 yes; exit 0": "larger than 1 MiB",
    b"echo hello; exit 0": "are no kernelspecs: b'hello",
    b"printf '/k/ir/kernel.json\\n{argv: [1]}\\0'": "kernelspec ir of image",
    b"""printf '/k/ir/kernel.json\\n{"argv": [["sh"], 1]}\\0'""": "argv is not made of text",
    b"""printf '/k/ir/kernel.json\\n{"argv": ["{prefix}", "{connection_file}"]}\\0'""": "in braces",
    b"printf '\\033]0;title\\007worse\\n\\033[2Jbad' >&2; exit 1": "exit status 1: bad",
}


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("preparation")) as made:
        yield made


@pytest.fixture
def make(registry, tmp_path):
    """Push an image of the base's layers and some files, with this config; return its name.

    Each is another image: what one has been made into is not found for the next.
    """

    def made(config=None, files=None):
        token = secrets.token_hex(4)
        writer = LayoutWriter(tmp_path / "layout")
        layers = writer.adopt(images.base_layout())
        if files:
            layers.append(writer.layer(small_tar(tmp_path / "files.tar", files)))
        env = [*images._path(), *images.ENVIRONMENT, f"TOKEN={token}"]
        writer.image(layers, {"Env": env, **(config or {})})
        return registry.push(writer.directory, f"preparation-{token}")

    return made


def state(site):
    with Engine.open(site.home) as engine:
        return engine.containers(), {str(image.id) for image in engine.images()}


def failure(done):
    assert done.returncode == 125, done.stdout
    line = done.stderr.splitlines()[-1]
    assert line.isprintable()
    return line


def test_it_is_installed_once_and_found_again_without_a_network(site, make):
    capabilities.need_package_index()
    # What the image sets for pip, and its user, do not count.
    hostile = [*images._path(), "PIP_INDEX_URL=https://localhost:1/", "PIP_TARGET=/elsewhere"]
    image = make({"User": "1000:1000", "Env": hostile})
    spec = installed(install("--name", "plain", image))["plain"]
    with Engine.open(site.home) as engine:
        base, facts = engine.image(image), spec["metadata"]["cellblock"]
        prepared = engine.image(facts["digest"])
    assert (facts["image"], prepared.layers[:-1]) == (image, base.layers)
    assert (prepared.config.user, base.id != prepared.id) == ("1000:1000", True)
    assert state(site) == ((), {str(base.id), str(prepared.id)})

    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("limit = 3", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(
                "import ipykernel, os, socket\n"
                "print(limit, os.getuid(), socket.if_nameindex(), ipykernel.__file__)"
            ),
        ]
    )
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, site.folder / "in.ipynb")
    words = [sys.executable, "-m", *"papermill in.ipynb out.ipynb -k plain -p limit 5".split()]
    subprocess.run(words, cwd=site.folder, check=True, capture_output=True, timeout=100)
    said = nbformat.read(site.folder / "out.ipynb", as_version=4).cells[-1].outputs[0].text
    assert said.startswith("5 1000 [(1, 'lo')] /usr/local/lib/python3")

    with Engine.open(site.home) as engine:  # nothing of how it came there is left in it
        words = ["sh", "-c", "ls -A /dev/.cellblock /tmp /root/.cache /elsewhere; true"]
        left = engine.run(str(prepared.id), words, user="0", entrypoint="")
        assert left.stdout == b"/tmp:\n"

    again = installed(install("--name", "again", image, env=NOBODY_LISTENS))["again"]
    assert again["metadata"]["cellblock"]["digest"] == str(prepared.id)

    # Without the image that was made there is nothing to be found; it is made again.
    with Engine.open(site.home) as engine:
        engine.remove_image(str(prepared.id), force=True)
    assert "localhost cannot be reached" in failure(install(image, env=NOBODY_LISTENS))
    assert state(site) == ((), {str(base.id)})


def test_an_index_of_ones_own_is_trusted_and_reached_by_its_certificate(site, make, tmp_path):
    with packageindex.serving(tmp_path, "ipykernel") as index:
        own = {"PIP_INDEX_URL": index.url, "PIP_CERT": str(index.certificate)}
        image = make()
        strangers = {**own, "PIP_CERT": os.devnull, "SSL_CERT_FILE": "", "SSL_CERT_DIR": ""}
        assert "certificate verify failed" in failure(install(image, env=strangers))
        assert index.asked == []
        (spec,) = installed(install(image, env=own)).values()
    assert index.asked == ["/simple/ipykernel/", "/simple/ipykernel/ipykernel-1-py3-none-any.whl"]
    with Engine.open(site.home) as engine:
        words = ["python3", "-c", "import ipykernel; print(ipykernel.__cached__)"]
        result = engine.run(spec["metadata"]["cellblock"]["digest"], words)
        assert result.stdout.startswith(b"/usr/local/lib/python3"), result.stderr
        compiled = ["test", "-f", result.stdout.decode().strip()]
        assert engine.run(spec["metadata"]["cellblock"]["digest"], compiled).exit_code == 0


def test_an_image_that_says_it_is_prepared_is_not(site, make):
    claims = {"org.cellblock.prepared": "ipykernel 1", "cellblock.kernel": "true"}
    image = make({"Labels": claims})
    before = state(site)[1]
    line = failure(install(image, env=NOBODY_LISTENS))
    assert line.startswith(f"cellblock: image {image} has no ipykernel and cannot be given it: ")
    assert "localhost cannot be reached: Connection refused" in line
    containers, after = state(site)
    assert (containers, len(after - before)) == ((), 1)  # the image itself, which was pulled


def test_credentials_are_not_shown_to_an_image(site, make):
    image = make()
    secret = {"PIP_INDEX_URL": "https://me:secret@localhost:1/simple"}
    line = failure(install(image, env=secret))
    assert "the package index localhost needs credentials" in line
    assert "secret" not in line
    assert state(site)[0] == ()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_while_it_is_installed_leaves_nothing(site, make, signum):
    image = make()
    with Engine.open(site.home) as engine:
        engine.pull(image)
    before = state(site)
    with socket.create_server(("localhost", 0)) as silent:  # an index that never answers
        port = silent.getsockname()[1]
        words = [sys.executable, "-m", "cellblock", "kernel", "install", "--user", image]
        env = {**os.environ, "PIP_INDEX_URL": f"https://localhost:{port}/simple"}
        process = subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True)
        silent.settimeout(30)
        connection, _ = silent.accept()
        assert len(state(site)[0]) == 1
        process.send_signal(signum)
        _, stderr = process.communicate(timeout=30)
        connection.close()
    assert process.returncode == (130 if signum == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in stderr
    site.assert_gone()
    assert state(site) == before


FAKE_PIP = """
import sys
if "nothing" not in {kind!r}:
    open("/usr/lib/python3/dist-packages/ipykernel.py", "w").write("")
if {kind!r} == "failure":
    sys.exit("x" * 5000 + "\\n\\x1b[2JERROR: no \\x1b]0;title\\x07luck")
"""


@pytest.fixture
def with_pip(make):
    """Push an image whose own pip does what it likes, without a network."""

    def made(kind):
        folder = "usr/lib/python3/dist-packages/pip"
        files = {
            f"{folder}/__init__.py": b"",
            f"{folder}/__main__.py": FAKE_PIP.format(kind=kind).encode(),
        }
        return make(files=files)

    return made


@pytest.mark.parametrize("phase", ["installing", "committing", "trying", None])
def test_what_ends_early_leaves_nothing(site, with_pip, phase):
    image = with_pip("well")
    phases = []

    def progress(step):
        phases.append(step.phase)
        if step.phase == phase:
            raise KeyboardInterrupt

    with Engine.open(site.home) as engine:
        engine.pull(image)
        before = state(site)
        interrupted = pytest.raises(KeyboardInterrupt) if phase else contextlib.nullcontext()
        with interrupted:
            install_kernelspecs(engine, KernelOptions(image=image), "user", progress=progress)
    containers, after = state(site)
    assert phases[-1] == (phase or "done")
    assert (containers, len(after - before[1])) == ((), 0 if phase else 1)


def test_a_pip_that_installs_nothing_is_found_out(site, with_pip):
    image = with_pip("nothing")
    assert "does not find it where it was installed" in failure(install(image))
    with Engine.open(site.home) as engine:
        made = engine.image(image)
        repository = made.references[0].repository
        of_it = [i for i in engine.images() if i.references[0].repository == repository]
        assert (engine.containers(), of_it) == ((), [made])
        assert engine.derived_image(made, RECIPE) is None


def test_what_pip_says_is_one_line(site, with_pip):
    line = failure(install(with_pip("failure")))
    assert "cannot be given it: no luck; see the network" in line


@pytest.mark.parametrize(("script", "message"), HOSTILE.items(), ids=range(len(HOSTILE)))
def test_a_hostile_python_is_refused_in_one_line(site, make, script, message):
    image = make(files={"usr/local/bin/python3": SHELL + script})
    line = failure(install(image))
    assert f"image {image}" in line
    assert message in line
    assert len(line) < 500
    assert state(site)[0] == ()


def test_one_kernel_of_a_hostile_image_can_be_chosen_and_is_confined(site, make):
    script = SHELL + (
        b"""printf '/k/ir/kernel.json\\n{"argv": 1}\\0/k/sh/kernel.json\\n"""
        b"""{"argv": ["sh", "-c", "env; exit 3", "{connection_file}"], "display_name": "S","""
        b""" "language": "sh", "env": {"LD_PRELOAD": "/evil.so", "PYTHONPATH": "/evil"}}\\0'"""
    )
    image = make(files={"usr/local/bin/python3": script})
    spec = installed(install("--kernel", "sh", "--name", "sh", image))["sh"]
    assert (spec["language"], spec["metadata"]["debugger"]) == ("sh", False)
    assert "env" not in spec
    # It does start its gate, whose own environment the image has no part in, and is no kernel.
    with pytest.raises(RuntimeError, match="did not start: exit status 3"), site.kernel("sh"):
        pass
    site.assert_gone()
    with site.kernel(installed(install("--name", "host", "host")).popitem()[0]) as (_, kc):
        assert run(kc, "print(1)") == "1\n"
