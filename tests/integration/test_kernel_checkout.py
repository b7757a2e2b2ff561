"""``%container checkout`` and ``undo``: a notebook goes on in the container of another image."""

from __future__ import annotations

import os
import sys

import nbformat
import pytest

from cellblock_engine import Engine
from support import images, kernels
from support.kernels import install, run
from support.layouts import LayoutWriter, small_tar
from support.packageindex import INSTALL, write_installable

PIP = INSTALL.format("{}-1-*.whl")
INSTALLED = """
from importlib.util import find_spec
print(*(name for name in ("first", "second") if find_spec(name)))
"""


@pytest.fixture(scope="module")
def site(root, tmp_path_factory, registry):
    with kernels.site(tmp_path_factory.mktemp("checkout")) as made:
        write_installable(made.folder, "first", "second")
        image = registry.push(images.kernel_layout(), "ipykernel")
        for name, *flags in (("real",), ("limited", "--memory", "700m", "-e", "MARK=kept")):
            done = install("--name", name, *flags, image)
            assert done.returncode == 0, done.stderr
        made.install("host")
        yield made
        made.assert_gone()


@pytest.fixture(scope="module")
def engine(site):
    with Engine.open(site.home) as opened:
        yield opened


@pytest.fixture(scope="module")
def commits(site, engine):
    """A notebook in which two packages were installed, committed after each, and restarted."""
    with site.kernel("real") as (km, kc):
        for package, image in (("first", "mine/work:1"), ("second", "mine/work:2")):
            assert f"Successfully installed {package}-1" in run(kc, PIP.format(package))
            assert "image:" in run(kc, f"%container commit {image}")
        km.restart_kernel()
        kc.wait_for_ready(timeout=kernels.ANSWER_S)
        assert run(kc, INSTALLED) == "first second\n"
        yield km, kc


def ids(engine):
    return [info.id for info in engine.containers()]


def test_the_first_commit_has_nothing_of_the_second(site, engine, commits):
    km, kc = commits
    before, (gate,) = km.provisioner._container, site.gates()
    descriptors = len(os.listdir(f"/proc/{gate}/fd"))
    run(kc, "x = 1; open('/root/loose', 'w').write('loose')")
    said = run(kc, "%container checkout -y mine/work:1")
    assert said.startswith("A new kernel begins in a container of mine/work:1: variables are lost")
    assert "since the last commit" in said
    assert run(kc, INSTALLED) == "first\n"
    assert run(kc, "print('x' in dir(), __import__('os').path.exists('/root/loose'))") == (
        "False False\n"
    )
    assert site.gates() == [gate]
    assert len(os.listdir(f"/proc/{gate}/fd")) == descriptors
    (now,) = ids(engine)
    assert now != before
    assert now in run(kc, "%container info")
    # It is this container from now on: what is done in it is kept over a restart, and committed.
    run(kc, "open('/root/later', 'w').close()")
    km.restart_kernel()
    kc.wait_for_ready(timeout=kernels.ANSWER_S)
    assert ids(engine) == [now]
    assert run(kc, f"{INSTALLED}\nprint(__import__('os').listdir('/root'))").startswith("first\n")
    # From there it goes forward as well, and back to what it was made from.
    assert "mine/work:2" in run(kc, "%container checkout --yes mine/work:2")
    assert run(kc, INSTALLED) == "first second\n"


def test_undo_goes_back_to_the_last_commit_or_to_the_image(site, engine):
    with site.kernel("real") as (_, kc):
        write = "open('/root/{0}', 'w').write('{0}')".format
        listed = "import os; print(*sorted(set(os.listdir('/root')) & {'one', 'two', 'three'}))"
        run(kc, write("one"))
        assert "since it was made" in run(kc, "%container undo -y")
        assert run(kc, listed) == "\n"
        run(kc, write("two"))
        assert "image:" in run(kc, "%container commit")  # it needs no name
        run(kc, write("three"))
        run(kc, "os.remove('/root/two')")
        said = run(kc, "%container undo --yes")
        assert "since the last commit" in said
        assert run(kc, listed) == "two\n"
        assert "no file outside the notebook's folder" not in said


def test_what_the_kernel_was_given_the_next_one_has(site, engine, commits):
    with site.kernel("limited") as (km, kc):
        run(kc, "%container limits --memory 650m")
        run(kc, "%container checkout -y mine/work:1")
        run(kc, "open('here', 'w').write('from the next')")
        assert (site.folder / "here").read_text() == "from the next"
        assert run(kc, "import os; print(os.environ['MARK'])") == "kept\n"
        assert "memory:   650 MiB" in run(kc, "%container limits")
        facts = " ".join(run(kc, "%container info").split())
        assert "network: none" in facts
        assert f"{site.folder} (rw)" in facts
        assert "KeyboardInterrupt" in kernels.interrupted(km, kc, "import time; time.sleep(20)")


def answering(kc, cell, answer):
    """Execute a cell whose user answers; return what was printed, and what was asked."""
    asked = []

    def on_stdin(message):
        asked.append(message["content"]["prompt"])
        kc.input(answer)

    return run(kc, cell, stdin_hook=on_stdin), asked


def test_the_user_is_asked_and_told_what_is_lost(site, engine, commits):
    with site.kernel("real") as (_, kc):
        run(kc, "x = 1; open('/root/loose', 'wb').write(b'x' * 3000)")
        before = ids(engine)
        said, (prompt,) = answering(kc, "%container checkout mine/work:1", "no")
        assert said.startswith("InvalidInput: nothing has changed")
        assert "variables are lost" in prompt
        assert "since it was made" in prompt
        assert prompt.endswith("Go on? [y/N] ")
        assert run(kc, "print(x)") == "1\n"
        assert ids(engine) == before
        said, (prompt,) = answering(kc, "%container undo", "y")
        assert said.startswith("A new kernel begins")
        assert run(kc, "print('x' in dir())") == "False\n"
        # Where nobody can be asked, one line says what to add.
        said = run(kc, "%container checkout mine/work:1", allow_stdin=False)
        assert said.startswith("InvalidInput: nobody can be asked")
        assert "add --yes (-y): variables are lost" in said
        assert "\n" not in said
        # input() of a cell is the kernel's own as ever.
        said, asked = answering(kc, "print(input('name? '))", "me")
        assert (said, asked) == ("me\n", ["name? "])


def test_what_cannot_be_a_kernel_is_refused_and_the_old_one_goes_on(
    site, engine, registry, tmp_path
):
    writer = LayoutWriter(tmp_path / "empty")
    writer.image([writer.layer(small_tar(tmp_path / "one.tar", {"file": b"text"}))])
    bare = registry.push(writer.directory, "no-python-at-all")
    engine.pull(bare)
    with site.kernel("real") as (_, kc):
        run(kc, "x = 1")
        before = ids(engine)
        for image, told in (
            (bare, "has no kernel python3"),
            ("mine/nothing:1", "mine/nothing:1"),
            ("UPPER", "UPPER"),
        ):
            said = run(kc, f"%container checkout -y {image}")
            assert told in said
            assert "\n" not in said
        said = run(kc, "%container checkout -y mine/work:1\n%container info")
        assert "comes after checkout: put it into a cell of its own" in said
        assert run(kc, "print(x)") == "1\n"
        assert ids(engine) == before


def test_one_that_does_not_start_changes_nothing(site, engine, commits):
    """It passes for a kernel when it is looked at, and ends when it is one."""
    broken = "raise SystemExit('not today')"
    engine.run(
        "mine/work:1",
        [
            "python3",
            "-c",
            f"open('/usr/lib/python3/dist-packages/zmq/__init__.py', 'w').write(\"{broken}\")",
        ],
        name="breaks",
        remove=False,
    )
    engine.commit("breaks", "mine/broken")
    engine.container("breaks").remove()
    with site.kernel("real") as (_, kc):
        run(kc, "x = 1")
        before = ids(engine)
        said = run(kc, "%container checkout -y mine/broken")
        assert "KernelNotReady: the kernel did not start" in said
        assert "not today" in said
        assert run(kc, "print(x)") == "1\n"
        assert ids(engine) == before


def test_cells_behind_it_are_aborted(site, engine, commits):
    with site.kernel("real") as (_, kc):
        run(kc, "")
        asked = [
            kc.execute(cell)
            for cell in ("%container checkout -y mine/work:1", "never = 1", "%container info")
        ]
        found = {}
        while len(found) < 3:
            reply = kc.get_shell_msg(timeout=kernels.ANSWER_S)
            found[reply["parent_header"]["msg_id"]] = reply["content"]["status"]
        assert [found[each] for each in asked] == ["ok", "aborted", "aborted"]
        assert run(kc, "print('never' in dir())") == "False\n"


def test_a_kernel_on_the_hosts_image_goes_on_in_another(site, engine, commits):
    with site.kernel("host") as (_, kc):
        assert "A new kernel begins" in run(kc, "%container checkout -y mine/work:1")
        assert run(kc, INSTALLED) == "first\n"
        assert "A new kernel begins" in run(kc, "%container checkout -y host")
        assert run(kc, "import sys; print(sys.executable)") == f"{sys.executable}\n"


@pytest.mark.parametrize(
    "words",
    [
        "papermill in.ipynb out.ipynb -k real",
        "jupyter execute --kernel_name=real --output=out.ipynb in.ipynb",
    ],
)
def test_notebooks_without_anybody_watching_go_on_in_it(site, commits, words):
    sources = ("x = 1", "%container checkout -y mine/work:2", INSTALLED, "print('x' in dir())")
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in sources])
    nbformat.write(made, site.folder / "in.ipynb")
    done = site.execute(words)
    assert done.returncode == 0, done.stderr
    ran = nbformat.read(site.folder / "out.ipynb", as_version=4).cells
    assert [each.outputs[0].text for each in ran[2:]] == ["first second\n", "False\n"]
    if "papermill" in words:  # nbclient's own command numbers cells itself
        assert [each.execution_count for each in ran] == [1, 2, 1, 2]
