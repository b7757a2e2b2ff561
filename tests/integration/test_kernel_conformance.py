"""jupyter_kernel_test on a kernel in a container, beside the same on the plain local kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from support import kernels

TESTS = 13  # of jupyter_kernel_test 0.7


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("conformance")) as made:
        made.install("inside")
        made.install_local("local")
        yield made


def results(site, name):
    told = site.runtime / f"{name}.json"
    done = subprocess.run(
        [sys.executable, "-m", "support.conformance", name, str(told)],
        cwd=site.folder,
        env={
            **os.environ,
            "IPYTHONDIR": str(site.folder.parent / f"ipython-{name}"),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert told.exists(), done.stderr
    return json.loads(told.read_text()), done.stderr


def test_all_of_it_passes_and_nothing_is_skipped_as_with_the_local_kernel(site):
    local, _ = results(site, "local")
    inside, said = results(site, "inside")
    assert inside == local, said
    assert len(inside["ran"]) == TESTS
    assert [inside[kind] for kind in ("failures", "errors", "skipped")] == [[], [], []], said
    site.assert_gone()
