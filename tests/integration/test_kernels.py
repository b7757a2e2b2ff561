"""Whole notebook kernels in containers, as jupyter_client and plain front ends start them."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from support import capabilities, kernels
from support.kernels import run


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("kernels")) as made:
        made.install("plain")
        yield made


@pytest.fixture(scope="module")
def kernel(site):
    """A kernel that the tests of what a kernel can do share."""
    with site.kernel("plain") as (km, kc):
        yield km, kc


def room_of(km):
    return os.path.dirname(km.ip)


def wait_for(condition, timeout_s=kernels.GONE_S):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


class TestLife:
    def test_a_restart_keeps_the_files_and_a_shutdown_removes_everything(self, site):
        with site.kernel("plain") as (km, kc):
            run(kc, "x = 1; open('/root/kept', 'w').write('by a cell')")
            km.restart_kernel()
            kc.wait_for_ready(timeout=30)
            assert run(kc, "print(open('/root/kept').read(), 'x' in dir())") == "by a cell False\n"
            container = km.provisioner._container
            assert kernels.cgroups_of(container)
        site.assert_gone()
        assert not kernels.cgroups_of(container)

    @pytest.mark.parametrize("death", ["import os; os._exit(3)", "import os; os.kill(os.getpid(), 9)"])
    def test_a_crash_keeps_the_files_for_the_restart(self, site, death):
        with site.kernel("plain") as (km, kc):
            run(kc, "open('/root/kept', 'w').write('1')")
            kc.execute(death)
            wait_for(lambda: not km.is_alive())
            km.restart_kernel(now=True)
            kc.wait_for_ready(timeout=30)
            assert run(kc, "import os; print(os.path.exists('/root/kept'))") == "True\n"
        site.assert_gone()

    def test_what_runs_out_of_memory_keeps_its_files_too(self, site):
        capabilities.need_memory_cgroup()
        site.install("small", memory="256m")
        with site.kernel("small") as (km, kc):
            run(kc, "open('/root/kept', 'w').write('1')")
            kc.execute("x = bytearray(1 << 30)")
            wait_for(lambda: not km.is_alive(), 20)
            km.restart_kernel(now=True)
            kc.wait_for_ready(timeout=30)
            assert run(kc, "import os; print(os.path.exists('/root/kept'))") == "True\n"
        site.assert_gone()

    def test_keep_leaves_the_ended_container(self, site):
        from cellblock_engine import Engine

        site.install("kept", keep=True)
        with site.kernel("kept"):
            pass
        with Engine.open(site.home) as engine:
            (info,) = engine.containers()
            assert info.status == "exited"
            engine.container(info.id).remove()
        site.assert_gone()

    def test_a_restart_takes_a_changed_environment(self, site):
        env = dict(os.environ)
        with site.kernel("plain", env={**env, "JPY_SESSION_NAME": "one.ipynb"}) as (km, kc):
            show = "import os; print(os.environ.get('JPY_SESSION_NAME'))"
            assert run(kc, show) == "one.ipynb\n"
            km.restart_kernel(env={**env, "JPY_SESSION_NAME": "two.ipynb"})
            kc.wait_for_ready(timeout=30)
            assert run(kc, show) == "two.ipynb\n"

    def test_the_environment_is_what_was_meant_for_it(self, site, monkeypatch):
        for name in ("JUPYTER_TOKEN", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK"):
            monkeypatch.setenv(name, "secret-of-the-server")
        monkeypatch.setenv("LANG", "C.UTF-8")
        site.install("set", env={"FROM_SPEC": "s p=c"})
        with site.kernel("set", env={**os.environ, "FROM_CALLER": "c"}) as (km, kc):
            seen = run(kc, "import os; print(dict(os.environ))")
            for pid in site.gates():
                words = open(f"/proc/{pid}/cmdline").read()
                assert "FROM_SPEC" in words
                assert "s p=c" not in words  # other users could read it there
        assert "secret-of-the-server" not in seen
        assert "JPY_PARENT_PID" not in seen
        for item in ("'LANG': 'C.UTF-8'", "'FROM_SPEC': 's p=c'", "'FROM_CALLER': 'c'"):
            assert item in seen

    def test_a_dead_gate_is_told_and_a_restart_replaces_it(self, site):
        with site.kernel("plain") as (km, kc):
            old = km.provisioner._container
            (gate,) = site.gates()
            os.kill(gate, signal.SIGKILL)
            wait_for(lambda: not km.is_alive())
            wait_for(lambda: not kernels.cgroups_of(old))
            km.restart_kernel(now=True)
            kc.wait_for_ready(timeout=30)
            assert run(kc, "print(1)") == "1\n"
        site.assert_gone()

    def test_another_process_can_take_the_kernel_over(self, site):
        from jupyter_client.manager import KernelManager

        with site.kernel("plain") as (km, kc):
            info = km._run(km.provisioner.get_provisioner_info()) if hasattr(km, "_run") else None
            if info is None:
                from jupyter_core.utils import run_sync

                info = run_sync(km.provisioner.get_provisioner_info)()
                other = KernelManager(kernel_name="plain")
                from jupyter_client.provisioning import KernelProvisionerFactory

                provisioner = KernelProvisionerFactory.instance().create_provisioner_instance(
                    "k", other.kernel_spec, parent=other
                )
                run_sync(provisioner.load_provisioner_info)(info)
                assert run_sync(provisioner.poll)() is None
                run_sync(provisioner.send_signal)(signal.SIGINT)
                run_sync(provisioner.kill)()
                run_sync(provisioner.wait)()
                run_sync(provisioner.cleanup)()
        site.assert_gone()


class TestInterrupt:
    def test_it_reaches_the_cell_and_only_the_kernels_own_process(self, kernel):
        km, kc = kernel
        run(kc, "import subprocess, time; child = subprocess.Popen(['sleep', '60'])")
        threading.Timer(0.5, km.interrupt_kernel).start()
        begun = time.monotonic()
        assert "KeyboardInterrupt" in run(kc, "time.sleep(20)")
        assert time.monotonic() - begun < 5
        assert run(kc, "print(child.poll()); child.kill(); child.wait()").startswith("None\n")

    def test_it_ends_a_question(self, kernel):
        km, kc = kernel
        kc.execute("input('name? ')", allow_stdin=True)
        assert kc.get_stdin_msg(timeout=10)["content"]["prompt"] == "name? "
        km.interrupt_kernel()
        assert kc.get_shell_msg(timeout=10)["content"]["ename"] == "KeyboardInterrupt"

    def test_it_does_not_hurt_a_kernel_that_starts(self, site):
        from jupyter_client.manager import KernelManager

        km = KernelManager(kernel_name="plain")
        stop = threading.Event()

        def interrupt():
            while not stop.is_set():
                if km.provisioner is not None and km.provisioner.process is not None:
                    for pid in site.gates():
                        os.kill(pid, 0)
                    from jupyter_core.utils import run_sync

                    run_sync(km.provisioner.send_signal)(signal.SIGINT)
                time.sleep(0.01)

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            km.start_kernel(cwd=str(site.folder))
        finally:
            stop.set()
            thread.join()
        kc = km.client()
        kc.start_channels()
        kc.wait_for_ready(timeout=30)
        kc.stop_channels()
        km.shutdown_kernel(now=True)
        site.assert_gone()
