"""What runs of the tests came to, by their JUnit reports: a table of environments."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ENVIRONMENTS = {
    "here": "a machine, as root: all tests",
    "root": "User Mode Linux, as root",
    "subids": "User Mode Linux, as a user with subordinate ids",
    "single": "User Mode Linux, as a user without",
}
OUTCOMES = ("passed", "skipped", "failed")


@dataclass(frozen=True)
class Run:
    """One report: when, on what, how many of each outcome, what was missing, and what failed."""

    when: str
    facts: dict[str, str]
    outcomes: Counter[str]
    missing: Counter[str]
    failures: tuple[str, ...]


def read(report: Path) -> Run:
    """Return what a JUnit report of pytest's says. Raises OSError and ElementTree.ParseError."""
    root = ElementTree.parse(report).getroot()
    suite = root.find("testsuite")
    if suite is None:
        raise ElementTree.ParseError("it has no testsuite")
    facts = {p.get("name", ""): p.get("value", "") for p in suite.iterfind("properties/property")}
    outcomes: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    failures = []
    for case in suite.iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            outcomes["failed"] += 1
            failures.append(f"{case.get('classname')}::{case.get('name')}")
        elif skipped is not None:
            outcomes["skipped"] += 1
            missing[skipped.get("message", "").removeprefix("Skipped: ")] += 1
        else:
            outcomes["passed"] += 1
    return Run(suite.get("timestamp", "")[:10], facts, outcomes, missing, tuple(failures))


def table(runs: dict[str, Run]) -> str:
    """Return the counts as a table, and after it what was missing for the skipped tests."""
    lines = [
        "| environment | kernel | control groups | passed | skipped | failed | when |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for name, run in runs.items():
        counts = " | ".join(str(run.outcomes[outcome]) for outcome in OUTCOMES)
        on = f"{run.facts.get('kernel', '')} | {run.facts.get('cgroups', '')}"
        lines.append(f"| {ENVIRONMENTS.get(name, name)} | {on} | {counts} | {run.when} |")
    for name, run in runs.items():
        if run.missing:
            reasons = "; ".join(f"{reason} ({n})" for reason, n in sorted(run.missing.items()))
            lines += ["", f"Skipped in “{ENVIRONMENTS.get(name, name)}”: {reasons}."]
    return "\n".join(lines)
