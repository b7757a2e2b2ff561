"""jupyter_kernel_test on a kernel in a container, beside the same on the plain local kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from support import kernels

TESTS = 13  # of jupyter_kernel_test 0.7
# It fails with every ipykernel, whose own tests leave it out: the current session is numbered 0.
NOT_OF_IPYKERNEL = "Kernel.test_history (hist_access_type='range')"


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


def test_it_gives_the_results_of_the_local_kernel(site):
    local, _ = results(site, "local")
    inside, said = results(site, "inside")
    assert inside == local, said
    assert len(inside["ran"]) == TESTS
    assert (inside["failures"], inside["errors"]) == ([], []), said
    assert inside["skipped"] == [NOT_OF_IPYKERNEL]
    site.assert_gone()
