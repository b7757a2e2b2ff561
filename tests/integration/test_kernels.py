"""Whole notebook kernels in containers, as jupyter_client and plain front ends start them."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cellblock_engine import CellblockError
from support import capabilities, kernels
from support.kernels import run


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("kernels")) as made:
        made.install("plain")
        yield made


def room_of(km):
    return os.path.dirname(km.ip)


def wait_for(condition, timeout_s=kernels.GONE_S):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


def is_locked(room):
    with open(os.path.join(room, "lock"), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


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

    @pytest.mark.parametrize(
        "death", ["import os; os._exit(3)", "import os; os.kill(os.getpid(), 9)"]
    )
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
        with site.kernel("set", env={**os.environ, "FROM_CALLER": "c"}) as (_, kc):
            seen = run(kc, "import os; print(dict(os.environ))")
            (gate,) = site.gates()
            with open(f"/proc/{gate}/cmdline") as file:
                words = file.read()
        assert "FROM_SPEC" in words
        assert "s p=c" not in words  # other users could read it there
        assert "secret-of-the-server" not in seen
        assert "'JPY_PARENT_PID': '1'" in seen
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
        from jupyter_client.provisioning import KernelProvisionerFactory
        from jupyter_core.utils import run_sync

        with site.kernel("plain") as (km, kc):
            info = run_sync(km.provisioner.get_provisioner_info)()
            other = KernelManager(kernel_name="plain")
            taken = KernelProvisionerFactory.instance().create_provisioner_instance(
                "k", other.kernel_spec, parent=other
            )
            info = json.loads(json.dumps(info, default=bytes.decode))
            run_sync(taken.load_provisioner_info)(info)
            assert taken.has_process
            assert run_sync(taken.poll)() is None
            kc.execute("import time; time.sleep(30)")
            time.sleep(0.5)
            run_sync(taken.send_signal)(signal.SIGINT)
            assert kc.get_shell_msg(timeout=10)["content"]["ename"] == "KeyboardInterrupt"
            run_sync(taken.kill)()
            run_sync(taken.wait)()
            assert not taken.has_process
            run_sync(taken.cleanup)()
            assert not os.path.exists(room_of(km))
            wait_for(lambda: not km.is_alive())
        site.assert_gone()


class TestInterrupt:
    def test_it_does_not_hurt_a_kernel_that_starts(self, site):
        from jupyter_client.manager import KernelManager

        km = KernelManager(kernel_name="plain")
        stop, sent = threading.Event(), []

        def interrupt():
            while not stop.is_set():
                if km.has_kernel:
                    km.interrupt_kernel()
                    sent.append(1)
                time.sleep(0.01)

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            km.start_kernel(cwd=str(site.folder))
        finally:
            stop.set()
            thread.join()
        assert len(sent) > 10
        kc = km.client()
        kc.start_channels()
        kc.wait_for_ready(timeout=30)
        kc.stop_channels()
        km.shutdown_kernel(now=True)
        site.assert_gone()


SERVER = """
import sys, time
from jupyter_client.manager import start_new_kernel
km, kc = start_new_kernel(kernel_name=sys.argv[1], cwd=sys.argv[2])
import os
if os.fork() == 0:  # a child that holds all its descriptors
    time.sleep(60)
    os._exit(0)
print(km.provisioner._container, os.path.dirname(km.ip), flush=True)
time.sleep(60)
"""


class TestDeath:
    def test_of_the_server_by_sigkill(self, site):
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, "plain", str(site.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        try:
            line = next(line for line in server.stdout if "/cellblock-kernels/" in line)
            container, room = line.split()
            assert os.path.exists(room)
            assert kernels.cgroups_of(container)
            server.kill()
            site.assert_gone()
            assert not os.path.exists(room)
            assert not kernels.cgroups_of(container)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    def test_of_server_and_gate_at_once_leaves_a_room_for_the_next_to_sweep(self, site):
        _, room = self.kill_both(site, "plain")
        assert os.path.exists(room)
        with site.kernel("plain"):
            assert not os.path.exists(room)
        site.assert_gone()

    def test_of_both_leaves_what_was_to_be_kept(self, site):
        from cellblock_engine import Engine

        site.install("kept", keep=True)
        container, room = self.kill_both(site, "kept")
        with site.kernel("plain"):
            assert not os.path.exists(room)
        with Engine.open(site.home) as engine:
            engine.container(container).remove(force=True)
        site.assert_gone()

    @staticmethod
    def kill_both(site, name):
        """Kill a server and its kernel's gate; return the container's id and the room."""
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, name, str(site.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        try:
            line = next(line for line in server.stdout if "/cellblock-kernels/" in line)
            container, room = line.split()
            (gate,) = site.gates()
            os.kill(server.pid, signal.SIGSTOP)
            os.kill(gate, signal.SIGKILL)
            server.kill()
            wait_for(lambda: not kernels.cgroups_of(container))
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        wait_for(
            lambda: not is_locked(room)
        )  # the server's child has its descriptors until it ends
        return container, room


BAD = {
    "unknown image": ({"image": "nowhere.invalid/nothing:1"}, "nothing"),
    "no command": ({"argv": ["no-such-python", "-m", "ipykernel_launcher"]}, "no-such-python"),
    "unknown network": ({"network": "bridge7"}, "network 'bridge7' is not known"),
    "unknown memory": ({"memory": "lots"}, "lots"),
    "cpus": ({"cpus": 4096.0}, "4096"),
    "little memory": ({"memory": "6m"}, "memory"),
    "workspace": ({"workspace": "all"}, "--workspace"),
    "volume": ({"volume": ("relative:/x",)}, "relative"),
    "a missing volume": ({"volume": ("/no/such/place:/x",)}, "/no/such/place"),
    "a kernel that ends": (
        {"argv": [sys.executable, "-c", "exit('\\x1b[31mnot today')"]},
        "not today",
    ),
    "a false socket": (
        {
            "argv": [
                sys.executable,
                "-c",
                "import os; [os.symlink('/run/x', f'/run/jupyter-kernel/kernel-{n}')"
                " for n in range(1, 6)]; import time; time.sleep(60)",
            ]
        },
        "kernel-1",
    ),
}


class TestStartsThatFail:
    @pytest.mark.parametrize("case", BAD)
    def test_say_one_line_and_leave_nothing(self, site, case, capfd):
        options, told = BAD[case]
        site.install("bad", **options)
        self.refused(site, "bad", told, capfd, site.folder)

    @pytest.mark.parametrize("folder", ["/", "home", "store"])
    def test_folders_that_are_not_shown(self, site, folder, capfd):
        path = {"/": "/", "home": os.path.expanduser("~"), "store": str(site.home)}[folder]
        self.refused(site, "plain", path, capfd, path)

    def test_no_workspace_can_be_anywhere(self, site):
        site.install("nowhere", workspace="none")
        with site.kernel("nowhere") as (_, kc):
            assert run(kc, f"import os; print(os.path.exists({str(site.folder)!r}))") == "False\n"
        site.assert_gone()

    def test_a_read_only_workspace(self, site):
        site.install("reader", workspace="ro")
        (site.folder / "there").write_text("1")
        with site.kernel("reader") as (_, kc):
            assert "Read-only file system" in run(kc, "open('there', 'a').write('2')")
        site.assert_gone()

    def refused(self, site, name, told, capfd, folder):
        from jupyter_client.manager import KernelManager

        capfd.readouterr()
        km = KernelManager(kernel_name=name)
        with pytest.raises((RuntimeError, CellblockError)) as caught:
            km.start_kernel(cwd=str(folder))
        message = str(caught.value)
        assert told in message
        assert message.isprintable()
        assert "Traceback" not in message
        assert not os.path.exists(km.connection_file)
        assert "Traceback" not in capfd.readouterr().err
        site.assert_gone()


def test_a_shutdown_at_the_exit_of_python_leaves_nothing(site):
    """As notebook tools that register it with atexit: no thread can be started any more."""
    program = f"""
import atexit
from jupyter_client.manager import start_new_kernel
km, kc = start_new_kernel(kernel_name="boxed", cwd={str(site.folder)!r})
atexit.register(lambda: km.shutdown_kernel(now=True))
"""
    site.install("boxed")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert "RuntimeError" not in done.stderr
    site.assert_gone()


def test_a_process_that_forked_starts_kernels_in_the_loop_of_its_parent(site):
    """As nbclient in a process pool: the child's loop is without its parent's threads."""
    program = f"""
import os, signal
from jupyter_client.manager import start_new_kernel
def once():
    km, kc = start_new_kernel(kernel_name="forked", cwd={str(site.folder)!r})
    kc.execute_interactive("1", timeout=20)
    kc.stop_channels()
    km.shutdown_kernel()
once()
if (pid := os.fork()) == 0:
    signal.alarm(30)
    once()
    os._exit(0)
os._exit(os.waitpid(pid, 0)[1] != 0)
"""
    site.install("forked")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    site.assert_gone()


def test_a_kernel_that_is_started_while_it_runs_takes_its_own_place(site):
    with site.kernel("plain") as (km, kc):
        run(kc, "x = 1; open('/root/kept', 'w').write('1')")
        km.start_kernel(cwd=str(site.folder))
        kc.wait_for_ready(timeout=30)
        assert run(kc, "import os; print(os.path.exists('/root/kept'), 'x' in dir())") == (
            "True False\n"
        )
        assert len(site.gates()) == 1
    site.assert_gone()
