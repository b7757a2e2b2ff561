"""Why a start failed, in one line that says what to do."""

from __future__ import annotations

import errno

import pytest

from cellblock_engine.runtime import wire
from cellblock_engine.runtime.failures import as_error
from cellblock_engine.runtime.process import StageFailed
from cellblock_engine.runtime.spec import ProcessSpec

PROCESS = ProcessSpec(argv=("run-me",), env=(), cwd="/nowhere", user="somebody")


@pytest.mark.parametrize(
    ("stage", "code", "text", "kind", "words"),
    [
        ("execute", errno.ENOENT, "No such file", "CommandNotFound", "'run-me' was not found"),
        ("execute", errno.EACCES, "denied", "CommandNotExecutable", "'run-me' cannot be executed"),
        ("user", errno.ENOENT, "unknown", "StartFailed", "as user 'somebody': unknown"),
        ("working directory", errno.ENOENT, "gone", "StartFailed", "directory '/nowhere': gone"),
        ("hardening", errno.EIO, "broken", "StartFailed", "cannot start: hardening: broken"),
    ],
)
def test_each_stage_says_what_failed(stage, code, text, kind, words):
    error = as_error(StageFailed(stage, code, text), PROCESS)
    assert error["kind"] == kind
    assert words in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize("error", [wire.Disconnected("gone"), ConnectionResetError(104, "reset")])
def test_a_process_that_was_killed_before_it_was_ready_is_named(error):
    assert "a process of the container ended before" in as_error(error, PROCESS)["message"]


@pytest.mark.parametrize("step", ["proc on /proc ()", "sysfs on /sys ()"])
def test_a_masked_proc_or_sys_around_us_is_explained(step):
    text = f"{step}: Operation not permitted"
    error = as_error(StageFailed("root file system", errno.EPERM, text), PROCESS)
    assert error["kind"] == "StartFailed"
    assert "only part of /proc or /sys" in error["message"]
    assert "unmasked" in error["message"]
    assert "\n" not in error["message"]


def test_other_refusals_of_the_root_are_told_as_they_are():
    for code, text in [
        (errno.EPERM, "overlay of 2 layers on /: Operation not permitted"),
        (errno.ENOMEM, "proc on /proc (): Cannot allocate memory"),
    ]:
        error = as_error(StageFailed("root file system", code, text), PROCESS)
        assert error["message"] == f"cannot start: root file system: {text}"
