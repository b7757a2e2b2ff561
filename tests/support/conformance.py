"""jupyter_kernel_test's suites on the kernelspec of a given name, every sample attribute set.

A program: ``python conformance.py KERNELSPEC RESULTS``; writes what ran and what did not pass.
"""

from __future__ import annotations

import json
import sys
import unittest
from pathlib import Path

import jupyter_kernel_test as upstream

KERNEL_NAME = sys.argv[1] if len(sys.argv) > 1 else ""


class Kernel(upstream.KernelTests):
    kernel_name = KERNEL_NAME
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples = ({"text": "zi", "matches": {"zip"}},)
    complete_code_samples = ("1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n")
    incomplete_code_samples = ('print("""hello', "def f(x):\n  x*2")
    invalid_code_samples = ("import = 7q",)
    code_page_something = "zip?"
    code_generate_error = "raise"
    code_execute_result = ({"code": "1+2+3", "result": "6"},)
    code_display_data = (
        {
            "code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))",
            "mime": "text/html",
        },
        {
            "code": "from IPython.display import Math, display; display(Math('x^2'))",
            "mime": "text/latex",
        },
    )
    code_history_pattern = "1?2*"
    # Not "range", as in ipykernel's own tests.
    supported_history_operations = ("tail", "search")
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"


class Welcome(upstream.IopubWelcomeTests):
    kernel_name = KERNEL_NAME
    support_iopub_welcome = True


class _Result(unittest.TextTestResult):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ran = []

    def startTest(self, test):  # noqa: N802 - unittest's name
        super().startTest(test)
        self.ran.append(_name(test))


def _name(test: unittest.TestCase) -> str:
    return ".".join(test.id().split(".")[-2:])


def main() -> None:
    load = unittest.defaultTestLoader.loadTestsFromTestCase
    suite = unittest.TestSuite([load(Kernel), load(Welcome)])
    result = unittest.TextTestRunner(resultclass=_Result).run(suite)
    found = {"ran": sorted(result.ran)}
    for kind in ("failures", "errors", "skipped"):
        found[kind] = sorted(_name(test) for test, _ in getattr(result, kind))
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
