"""Reports of runs become a table of environments, and a document is rewritten with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
REPORT = """<testsuites><testsuite name="pytest" timestamp="2030-01-02T03:04:05">
<properties><property name="kernel" value="6.1.0"/>
<property name="cgroups" value="v2"/></properties>
<testcase classname="tests.test_a" name="test_one"/>
<testcase classname="tests.test_a" name="test_two"/>
<testcase classname="tests.test_a" name="test_three"><skipped message="needs swap"/></testcase>
<testcase classname="tests.test_a" name="test_four"><skipped message="needs swap"/></testcase>
<testcase classname="tests.test_a" name="test_five"><failure message="no"/></testcase>
</testsuite></testsuites>"""
ROW = "| User Mode Linux, as root | 6.1.0 | v2 | 2 | 2 | 1 | 2030-01-02 |"
SKIPPED = "Skipped in “User Mode Linux, as root”: needs swap (2)."


def count(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(PROJECT / "scripts" / "count-table"), *words]
    return subprocess.run(argv, capture_output=True, check=False, text=True, timeout=60)


def test_a_document_gets_the_counts_of_each_environment(tmp_path: Path) -> None:
    report, document = tmp_path / "root.xml", tmp_path / "page.md"
    report.write_text(REPORT)
    document.write_text(
        "before\n<!-- count table: begin -->\nold\n<!-- count table: end -->\nafter"
    )
    words = ("--write", "--document", str(document), "--report", f"root={report}")
    done = count(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert {ROW, SKIPPED} <= set(done.stdout.splitlines())
    text = document.read_text()
    assert ROW in text
    assert "old" not in text
    assert text.startswith("before\n<!--")
    assert text.endswith("-->\nafter")

    done = count(*words, "--report", f"single={tmp_path / 'none.xml'}")
    assert done.returncode == 1
    assert "Not run: User Mode Linux, as a user without." in done.stdout
