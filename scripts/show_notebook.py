"""Executes a notebook with the installed kernel and prints it, with its outputs, as plain text.

The notebook file is not changed. Exits with 1 when a cell raises that is not tagged
``raises-exception``.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def main() -> int:
    """Run the notebook named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--timeout", type=int, default=300, help="seconds for each cell")
    arguments = parser.parse_args()
    notebook = nbformat.read(arguments.notebook, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=arguments.timeout,
        extra_arguments=["--log-level=ERROR"],  # else it warns of what every local kernel does
        resources={"metadata": {"path": str(arguments.notebook.parent)}},
    )
    failure: CellExecutionError | None = None
    try:
        client.execute()
    except CellExecutionError as error:
        failure = error
    for cell in notebook.cells:
        show(cell)
    if failure is not None:
        sys.stderr.write(f"{arguments.notebook}: {failure.ename}: {failure.evalue}\n")
        return 1
    return 0


def show(cell: nbformat.NotebookNode) -> None:
    """Print one cell: prose as it is, code behind a bar, and what the code gave."""
    if cell.cell_type != "code":
        print(cell.source, end="\n\n")
        return
    print(textwrap.indent(cell.source, "  | ", lambda _: True))
    for output in cell.outputs:
        text = ANSI.sub("", as_text(output)).rstrip()
        if text:
            print(textwrap.indent(text, "    "))
    print()


def as_text(output: nbformat.NotebookNode) -> str:
    """Return what a terminal can show of one output."""
    if output.output_type == "stream":
        return str(output.text)
    if output.output_type == "error":
        return "\n".join(output.traceback)
    text = output.data.get("text/plain", "")
    pictures = [kind for kind in output.data if kind.startswith("image/")]
    return "\n".join([str(text), *(f"[{kind}]" for kind in pictures)])


if __name__ == "__main__":
    raise SystemExit(main())
