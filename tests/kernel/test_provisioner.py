"""The provisioner's own decisions; what it starts is in tests/integration/test_kernels.py."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess

import pytest
from jupyter_client.kernelspec import KernelSpec

from cellblock_kernel.gate.options import KernelOptions, command, parse
from cellblock_kernel.process import AdoptedProcess
from cellblock_kernel.provisioner import CellblockProvisioner

ARGV = ("python3", "-m", "ipykernel_launcher", "-f", "{connection_file}")


@pytest.fixture
def provisioner():
    spec = KernelSpec(argv=list(ARGV), env={"FROM_SPEC": "s"})
    return CellblockProvisioner(kernel_spec=spec, kernel_id="k")


def heard(words):
    return parse(words[words.index("cellblock_kernel.gate") + 1 :])


def test_a_specs_command_is_said_to_be_provisioned(provisioner):
    words = command(KernelOptions(image="i", keep=True), ARGV)
    options = heard(provisioner._gate_command(words, []))
    assert options.provisioned
    assert options.kernel == KernelOptions(image="i", keep=True)
    assert provisioner._keep


def test_another_specs_command_runs_on_the_host_image(provisioner):
    options = heard(provisioner._gate_command(list(ARGV), []))
    assert options.kernel == KernelOptions()
    assert options.argv == ARGV
    assert not provisioner._keep


def test_another_specs_command_has_the_volumes_and_variables_that_were_settled(
    provisioner, monkeypatch
):
    monkeypatch.setenv("CELLBLOCK_KERNEL_VOLUMES", "/a:/b:ro")
    monkeypatch.setenv("CELLBLOCK_KERNEL_ENV", "A=b,NAMED")
    kernel = KernelOptions(volume=("/a:/b:ro",), env=("A=b", "NAMED"))
    assert heard(provisioner._gate_command(list(ARGV), [])).kernel == kernel
    own = command(KernelOptions(image="i"), ARGV)
    assert heard(provisioner._gate_command(own, [])).kernel == KernelOptions(image="i")


def test_a_restart_names_the_container(provisioner):
    provisioner._container = "abc"
    assert heard(provisioner._gate_command(list(ARGV), [])).container == "abc"


def test_variables_are_named_without_their_values(provisioner, monkeypatch):
    monkeypatch.setenv("OURS", "1")
    monkeypatch.setenv("CHANGED", "1")
    given = {**os.environ, "CHANGED": "2", "NEW": "3", "JPY_PARENT_PID": "4"}
    words = provisioner._explicit(given)
    assert words == ["--env=CHANGED", "--env=FROM_SPEC", "--env=NEW"]


def test_without_a_process_everything_is_quiet(provisioner):
    async def all_of_it():
        assert await provisioner.poll() == 0
        assert await provisioner.wait() == 0
        await provisioner.send_signal(signal.SIGINT)
        await provisioner.kill()
        await provisioner.terminate()
        await provisioner.cleanup()

    asyncio.run(all_of_it())
    assert not provisioner.has_process


class TestAdoptedProcess:
    @pytest.fixture
    def child(self):
        process = subprocess.Popen(["sleep", "60"])
        yield process
        process.kill()
        process.wait()

    def test_it_is_met_signalled_and_waited_for(self, child):
        adopted = AdoptedProcess(AdoptedProcess.identity(child.pid))
        assert adopted.poll() is None
        adopted.send_signal(signal.SIGTERM)
        assert adopted.wait() == 0
        assert adopted.poll() == 0
        assert child.wait() == -signal.SIGTERM

    def test_another_of_the_same_pid_is_left_alone(self, child):
        other = {**AdoptedProcess.identity(child.pid), "start": "1"}
        adopted = AdoptedProcess(other)
        assert adopted.poll() == 0
        adopted.kill()
        assert child.poll() is None

    def test_one_that_has_ended_has_no_identity(self):
        with subprocess.Popen(["true"]) as process:
            pass
        assert AdoptedProcess.identity(process.pid) is None
