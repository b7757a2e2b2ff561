"""The quickstart notebook, executed on a store of its own."""

from __future__ import annotations

import json

from nbclient import NotebookClient

from support import capabilities, tutorials

NOTEBOOK = "quickstart.ipynb"


def outputs(notebook, source: str) -> str:
    """Return the text that the cell that begins with ``source`` gave."""
    (cell,) = [cell for cell in notebook.cells if cell.source.startswith(source)]
    parts = []
    for output in cell.outputs:
        match output.output_type:
            case "stream":
                parts.append(output.text)
            case "error":
                parts.append("\n".join(output.traceback))
            case _:
                parts.append(output.data["text/plain"])
    return "\n".join(parts)


def test_it_is_kept_without_outputs():
    tutorials.assert_kept_without_outputs(NOTEBOOK)


def test_it_shows_what_it_says(root, engine, tmp_path, monkeypatch):
    capabilities.need_memory_cgroup()
    monkeypatch.setenv("CELLBLOCK_HOME", str(tmp_path / "store"))
    notebook = tutorials.read(NOTEBOOK)
    NotebookClient(notebook, timeout=120).execute()

    isolated = outputs(notebook, "%%container run\nimport os")
    assert isolated.startswith("process 2 of host ")
    assert "networks: ['lo']" in isolated
    inside, outside, _ = json.loads(
        isolated.split("outside: ")[1].splitlines()[0].replace("'", '"')
    )
    assert inside == "0"
    assert int(outside) > 65535
    assert "square" in outputs(notebook, "%%container run\nimport numpy")
    assert outputs(notebook, "from pathlib import Path") == "False"
    assert "after 31" in outputs(notebook, "%%container run --memory 64m --cpus")
    for start, kind in (
        ("%%container run --memory 64m\nhoard", "OutOfMemory: out of memory: the limit of 64 MiB"),
        ("%container run --rm --timeout", "TimedOut: timed out: the limit of 0.5 s"),
    ):
        error = outputs(notebook, start)
        assert error.startswith(kind)
        assert "\n" not in error
    assert outputs(notebook, "cid =").split() == ["3", "working"]
    assert "exited" in outputs(notebook, "containers =")
    assert outputs(notebook, "from cellblock import") == "(0, b'42\\n')"
    assert "137 out of memory" in outputs(notebook, "greedy =")
    assert "b'64'" in outputs(notebook, "from concurrent")
