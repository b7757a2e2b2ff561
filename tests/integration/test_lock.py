"""Notebooks tied to an image of a real registry, and run in exactly that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from cellblock_engine import Engine, RunRequest
from cellblock_kernel.kernelspecs.preparation import RECIPE
from support import images, kernels
from support.kernels import install, installed
from support.layouts import LayoutWriter, small_tar
from support.notebook import Notebook

V4 = nbformat.v4
NAMES = "import os, socket\nprint(sorted(name for _, name in socket.if_nameindex()))"


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("lock")) as made:
        yield made


@pytest.fixture(scope="module")
def image(registry) -> str:
    return registry.push(images.kernel_layout(), "locked")


@pytest.fixture(scope="module", autouse=True)
def pulled(site, image) -> str:
    with Engine.open(site.home) as engine:
        return str(engine.pull(image).id)


def cellblock(*words, cwd, **env):
    return subprocess.run(
        [sys.executable, "-m", "cellblock", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **env},
    )


def make(site, name="n.ipynb", *sources, **metadata):
    notebook = V4.new_notebook(
        cells=[
            V4.new_code_cell("limit = 3", metadata={"tags": ["parameters"]}),
            *map(V4.new_code_cell, sources or (NAMES, "limit * 2")),
        ],
        metadata=metadata,
    )
    path = site.folder / name
    nbformat.write(notebook, path)
    return path


def lock(site, path, *words):
    done = cellblock("lock", *words, path.name, cwd=site.folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def locked(path):
    return nbformat.read(path, as_version=4).metadata.cellblock.lock


def failure(done, status=125):
    assert done.returncode == status, (done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1
    assert done.stderr[:-1].isprintable()
    return done.stderr


def outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    return [each for cell in cells for each in cell.get("outputs", [])]


def test_a_notebook_is_locked_and_run_in_its_image(site, image, pulled):
    path = make(site, kernelspec={"name": "python3", "display_name": "P", "language": "python"})
    before, mode = path.read_bytes(), path.stat().st_mode
    assert lock(site, path, "--image", image).startswith(f"n.ipynb: {image} ({pulled[7:19]}), ")
    known = locked(path)
    with Engine.open(site.home) as engine:
        found = engine.image(image)
        assert (known.manifest, known.id) == (str(found.manifest), str(found.id))
        assert known.packages.python.ipykernel in {
            each.version for each in engine.packages(image) if each.name == "ipykernel"
        }
        references = found.references
    assert known.platform.startswith("linux/")
    assert path.stat().st_mode == mode
    nbformat.validate(nbformat.read(path, as_version=4))
    document = json.loads(path.read_text())
    del document["metadata"]["cellblock"]
    assert document == json.loads(before)

    done = cellblock("run-notebook", "n.ipynb", "-p", "limit", "21", "-m", "400m", cwd=site.folder)
    assert (done.returncode, done.stdout) == (0, "n.out.ipynb\n"), done.stderr
    made = nbformat.read(site.folder / "n.out.ipynb", as_version=4)
    nbformat.validate(made)
    assert [
        each.get("text") or each.data["text/plain"] for each in outputs(site.folder / "n.out.ipynb")
    ] == [
        "['lo']\n",
        "42",
    ]
    assert made.metadata.cellblock.lock == known
    assert made.metadata.kernelspec.name == "python3"
    assert made.metadata.papermill.input_path == "n.ipynb"
    assert made.metadata.papermill.output_path == "n.out.ipynb"
    assert made.metadata.papermill.parameters == {"limit": 21}
    with Engine.open(site.home) as engine:
        assert engine.image(image).references == references
    site.assert_gone()
    assert [each for each in site.runtime.iterdir() if "kernel" in each.name] == []


def test_a_cell_that_fails_is_one_line_and_status_1(site, image):
    path = make(
        site, "bad.ipynb", "print('before')", "raise ValueError('a\\nb\\x1b[2Jc')", "print('no')"
    )
    lock(site, path, "--image", image)
    done = cellblock("run-notebook", "bad.ipynb", "-o", "deep.ipynb", cwd=site.folder)
    said = failure(done, 1)
    assert said.startswith(
        "cellblock: bad.ipynb: cell [3] failed: ValueError: a bc; see deep.ipynb"
    )
    kinds = [each.output_type for each in outputs(site.folder / "deep.ipynb")]
    assert kinds == ["stream", "error"]
    assert locked(site.folder / "deep.ipynb") == locked(path)
    path = make(site, "loud.ipynb", "raise type('E' * 10**5, (Exception,), {})('x' * 10**6)")
    lock(site, path, "--image", image)
    said = failure(cellblock("run-notebook", "loud.ipynb", cwd=site.folder), 1)
    assert "cell [2] failed: EEE" in said
    assert len(said) < 500
    path = make(site, "dead.ipynb", "import os; os._exit(3)", "print('no')")
    lock(site, path, "--image", image)
    assert "DeadKernelError" in failure(cellblock("run-notebook", "dead.ipynb", cwd=site.folder), 1)
    assert (site.folder / "dead.out.ipynb").exists()
    site.assert_gone()


OTHER = "usr/lib/python3/dist-packages/other-1.2.dist-info/METADATA"


def move(registry, tmp_path, name):
    """Push another image to a name: the same and a package more."""
    writer = LayoutWriter(tmp_path / "other")
    files = {OTHER: b"Name: other\nVersion: 1.2\n"}
    layer = writer.layer(small_tar(tmp_path / "other.tar", files))
    env = [*images._path(), *images.ENVIRONMENT]
    writer.image([*writer.adopt(images.kernel_layout()), layer], {"Env": env})
    return registry.push(writer.directory, name)


def rewrite(path, **members):
    """Write members of a lock as somebody might who is not cellblock."""
    document = json.loads(path.read_text())
    document["metadata"]["cellblock"]["lock"].update(members)
    path.write_text(json.dumps(document))


def test_a_tag_that_moves_is_told_of_and_does_not_matter(site, registry, tmp_path):
    image = registry.push(images.kernel_layout(), "moving")
    spec = installed(install("--name", "real", image))["real"]
    path = make(site, "moved.ipynb", kernelspec={"name": "real", "display_name": "R"})
    lock(site, path)
    known = locked(path)
    assert (known.image, known.id) == (image, spec["metadata"]["cellblock"]["digest"])
    assert known.kernel == "python3"
    done = cellblock("lock", "--check", "moved.ipynb", cwd=site.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f" to {image} ({known.id[7:19]}), and it is in the store\n")

    move(registry, tmp_path, "moving")
    with Engine.open(site.home) as engine:
        engine.pull(image)
    done = cellblock("lock", "--check", "moved.ipynb", cwd=site.folder)
    assert "is another image now, and the locked one is in the store" in failure(done)
    assert done.stdout == "added: python other 1.2\n"
    before = path.read_bytes()
    done = cellblock("run-notebook", "moved.ipynb", cwd=site.folder)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == before
    python = {**known.packages.python, "made": "up", "ipykernel": "0.1"}
    packages = {**known.packages, "python": python}
    rewrite(path, image="localhost:1/not/here:1", packages=packages)
    done = cellblock("lock", "--check", "moved.ipynb", cwd=site.folder)
    assert "its list of packages is not that of this image" in failure(done)
    now = known.packages.python.ipykernel
    assert done.stdout.splitlines() == [
        f"changed: python ipykernel 0.1 -> {now}",
        "removed: python made up",
    ]


def test_what_is_not_here_is_pulled_by_digest_or_refused(site, registry, tmp_path):
    image = registry.push(images.kernel_layout(), "far")
    with Engine.open(site.home) as engine:
        engine.pull(image)
    path = make(site, "far.ipynb")
    lock(site, path, "--image", image)
    known, original = locked(path), path.read_bytes()
    other = move(registry, tmp_path, "far")
    with Engine.open(tmp_path / "store") as engine:
        wrong = engine.pull(other)

        def attempt(status, **members):
            path.write_bytes(original)
            rewrite(path, **members)
            done = cellblock(
                "run-notebook", "far.ipynb", cwd=site.folder, CELLBLOCK_HOME=str(engine.home)
            )
            assert done.returncode == status, done.stderr
            assert engine.containers() == ()
            return done.stderr.splitlines()[-1] if status else ""  # after those of a pull

        nothing = "sha256:" + "0" * 64
        said = attempt(125, manifest=str(wrong.manifest))
        assert f"which is {wrong.id.short}: the lock was altered" in said
        assert "is not in the store: " in attempt(125, manifest=nothing)
        made_here = {"manifest": known["manifest"], "id": nothing}
        assert "no registry has it" in attempt(125, base=made_here)
        assert "localhost:1 is not available" in attempt(125, image="localhost:1/far:1")
        assert [each.references for each in engine.images()] == [wrong.references]
        assert not (site.folder / "far.out.ipynb").exists()
        attempt(0)
        pulled = engine.image(known["id"])
        assert [each.tag for each in pulled.references] == [None]
    kernels_left = kernels.Site.left(site)
    assert not kernels_left, kernels_left
    leave(tmp_path / "store")


def leave(home: Path) -> None:
    """See the spawner of a store of the test's own leave."""
    from cellblock_engine.layout import Layout
    from cellblock_engine.runtime import launcher

    launcher.dismiss_all(Layout.default(home))


def test_what_was_committed_and_pushed_is_run_elsewhere(site, image, registry, tmp_path):
    name = f"{registry.host}/mine/lab:1"
    with Engine.open(site.home) as engine:
        made = RunRequest(image, ("sh", "-c", "echo made > /opt/made"), name="lab")
        engine.start(made).wait()
        engine.commit("lab", name)
        engine.container("lab").remove()
        path = make(site, "lab.ipynb", "print(open('/opt/made').read())")
        lock(site, path, "--image", name)
        engine.push(name)
    done = cellblock("lock", "--check", "lab.ipynb", cwd=site.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith("its manifest is another since, as after a push")
    lock(site, path, "--image", name)
    done = cellblock("lock", "--check", "lab.ipynb", cwd=site.folder)
    assert done.stdout.count("\n") == 1
    elsewhere = tmp_path / "store"
    done = cellblock("run-notebook", "lab.ipynb", cwd=site.folder, CELLBLOCK_HOME=str(elsewhere))
    leave(elsewhere)
    assert done.returncode == 0, done.stderr
    assert outputs(site.folder / "lab.out.ipynb")[0].text == "made\n\n"


def test_what_was_given_ipykernel_is_locked_as_it_runs(site, image, base_image):
    with Engine.open(site.home) as engine:
        base, made = engine.pull(base_image), engine.image(image)
        engine.note_derived(base, RECIPE, made)
    installed(install("--name", "given", base_image))
    path = make(site, "given.ipynb", kernelspec={"name": "given", "display_name": "G"})
    lock(site, path)
    first = locked(path)
    said = lock(site, path, "--image", base_image)
    assert locked(path) == first
    assert f"{base_image} with ipykernel ({made.id.short})" in said
    known = locked(path)
    assert (known.image, known.id, known.base.id) == (base_image, str(made.id), str(base.id))
    assert "ipykernel" in known.packages.python
    done = cellblock("run-notebook", "given.ipynb", cwd=site.folder)
    assert done.returncode == 0, done.stderr
    done = cellblock("lock", "--check", "given.ipynb", cwd=site.folder)
    assert done.returncode == 0, done.stderr
    rewrite(path, id=str(base.id), base=None)
    done = cellblock("run-notebook", "given.ipynb", cwd=site.folder)
    assert "has no ipykernel: lock it anew" in failure(done)


def test_other_programs_see_an_ordinary_notebook(site, image):
    site.install_local("local")
    path = make(site, "plain.ipynb", kernelspec={"name": "local", "display_name": "L"})
    lock(site, path, "--image", image)
    nbformat.validate(nbformat.read(path, as_version=4))
    for words in (
        "papermill plain.ipynb one.ipynb -k local",
        "jupyter nbconvert --execute --to notebook --output two.ipynb plain.ipynb",
        "jupyter nbconvert --to script plain.ipynb",
    ):
        done = subprocess.run(
            [sys.executable, "-m", *words.split()],
            cwd=site.folder,
            capture_output=True,
            check=False,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
    for name in ("one.ipynb", "two.ipynb"):
        assert locked(site.folder / name) == locked(path)
        assert outputs(site.folder / name)[-1].data["text/plain"] == "6"


def test_a_notebook_decides_nothing_but_its_image(site, image):
    """Neither its metadata nor what lies beside it has a say on this machine."""
    path = make(
        site,
        "wild.ipynb",
        NAMES,
        "print(sorted(os.listdir('/host')) if os.path.exists('/host') else 'no')",
        "print('https_proxy' in os.environ)",
        kernelspec={"name": "wild", "display_name": "W", "language": "julia"},
        papermill={"output_path": "/elsewhere/out.ipynb", "parameters": {"a": 1}},
    )
    lock(site, path, "--image", image)
    rewrite(path, network="host", volume=["/:/host"], memory="1g", env=["A=1"], argv=["x"])
    modules = [site.folder / f"{name}.py" for name in "papermill nbformat nbclient tqdm".split()]
    for module in modules:
        module.write_text("open('/dev/shm/cellblock-loaded', 'w')\n")
    words = [sys.executable, "-P", "-m", "cellblock", "run-notebook", "--allow-host=pypi.org", path]
    try:
        done = subprocess.run(
            words,
            cwd=site.folder,
            capture_output=True,
            check=False,
            text=True,
            timeout=100,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert done.returncode == 0, done.stderr
        assert not Path("/dev/shm/cellblock-loaded").exists()
    finally:
        for module in modules:
            module.unlink()
    said = [each.text for each in outputs(site.folder / "wild.out.ipynb")]
    assert said == ["['lo']\n", "no\n", "True\n"]


def test_a_cell_cannot_lead_the_outputs_elsewhere(site, image, tmp_path):
    secret = tmp_path / "out.ipynb"
    secret.write_text("untouched")
    (site.folder / "sub").mkdir()
    path = make(
        site,
        "sly.ipynb",
        "import os; os.rename('sub', 'moved')",
        f"os.symlink('{tmp_path}', 'sub'); os.symlink('{secret}', 'moved/out.ipynb')",
    )
    lock(site, path, "--image", image)
    done = cellblock("run-notebook", "sly.ipynb", "-o", "sub/out.ipynb", cwd=site.folder)
    assert done.returncode == 0, done.stderr
    assert secret.read_text() == "untouched"
    assert list(tmp_path.iterdir()) == [secret]
    made = site.folder / "moved" / "out.ipynb"
    assert not made.is_symlink()
    assert locked(made) == locked(path)


def start(site, name):
    words = [sys.executable, "-m", "cellblock", "run-notebook", name]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    env["TMPDIR"] = str(site.runtime.parent)
    process = subprocess.Popen(
        words, cwd=site.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not (site.folder / "begun").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (site.folder / "begun").unlink()
    return process


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_one_that_is_ended(site, image, signum):
    path = make(
        site, "long.ipynb", "print('kept')", "open('begun', 'w'); import time; time.sleep(60)"
    )
    lock(site, path, "--image", image)
    (site.folder / "long.out.ipynb").unlink(missing_ok=True)
    with start(site, "long.ipynb") as process:
        process.send_signal(signum)
        process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGKILL)
    site.assert_gone(timeout_s=20)
    deadline = time.monotonic() + 10
    while (left := list(site.runtime.parent.glob("cellblock-*"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    saved = site.folder / "long.out.ipynb"
    assert saved.exists() == (signum == signal.SIGINT)
    if saved.exists():
        assert outputs(saved)[0].text == "kept\n"


def test_bad_words_are_refused_in_one_line(site, image):
    path = make(site, "bare.ipynb", kernelspec={"name": "python3", "display_name": "P"})
    (site.folder / "folder").mkdir()
    before = sorted(site.folder.iterdir())
    for words, why in {
        "lock bare.ipynb": "the kernel 'python3' of bare.ipynb is not cellblock's",
        "lock --image host bare.ipynb": "which has no digest",
        "lock --image not/here bare.ipynb": "is not in the store",
        f"lock --image {image} --kernel ir bare.ipynb": "has no kernel ir: it has python3",
        "lock --check bare.ipynb": "is not locked to an image: see cellblock lock bare.ipynb",
        "lock --check --image x bare.ipynb": "leave out --image",
        "lock folder": "cannot read notebook folder: Is a directory",
        "lock none.ipynb": "cannot read notebook none.ipynb: No such file",
        "run-notebook bare.ipynb": "is not locked to an image",
        "run-notebook bare.ipynb -p one": "expected 2 arguments",
        "run-notebook --network lan bare.ipynb": "--network 'lan' is not known",
        "run-notebook --network host --allow-host a.org bare.ipynb": "without a network",
        "run-notebook --allow-host a/b bare.ipynb": "a/b",
        "run-notebook --memory lots bare.ipynb": "is not a size",
    }.items():
        assert why in failure(cellblock(*words.split(), cwd=site.folder))
    lock(site, path, "--image", image)
    for out in ("folder", "none/out.ipynb"):
        done = cellblock("run-notebook", "-o", out, "bare.ipynb", cwd=site.folder)
        assert f"cannot write {out}" in failure(done)
    assert sorted(site.folder.iterdir()) == before
    path = without_papermill(site)
    done = cellblock("run-notebook", "bare.ipynb", cwd=site.folder, PYTHONPATH=path)
    assert "needs papermill: pip install papermill" in failure(done)


def without_papermill(site) -> str:
    """Return a path on which papermill is not found, as where it is not installed."""
    folder = site.runtime.parent / "without"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda n, *more: n != 'papermill' and find(n, *more) or None\n"
    )
    return os.pathsep.join([str(folder), *filter(None, sys.path)])


def test_a_notebook_locks_another_by_magic(site, image):
    path = make(site, "magic.ipynb")
    notebook = Notebook(site.home)
    try:
        done = notebook.run(f"%container lock --image {image} {path}")
        assert done.text().startswith(f"{path}: {image} (")
        refused = notebook.run(f"%container lock --image host {path}")
        assert refused.errors[0][0].startswith("InvalidInput: 'host' is this machine as it is")
        ran = notebook.run(f"%container run-notebook -p limit 4 {path}")
        assert ran.text() == f"{site.folder / 'magic.out.ipynb'}\n", ran.items
    finally:
        notebook.close()
    assert outputs(site.folder / "magic.out.ipynb")[-1].data["text/plain"] == "8"
