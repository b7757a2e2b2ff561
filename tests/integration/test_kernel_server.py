"""Kernels in containers below a real Jupyter server, over REST and websockets."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from contextlib import closing, contextmanager

import pytest

from support import kernels


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("server")) as made:
        made.install("plain")
        made.install("bad", image="nowhere.invalid/nothing:1")
        yield made


class Server:
    """One server on the loopback device, with its own folders and token."""

    def __init__(self, site, *flags):
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        self.token = secrets.token_hex(8)
        self.log = site.folder.parent / f"server-{self.port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root"),
                    *(f"--ServerApp.port={self.port}", "--ServerApp.ip=127.0.0.1"),
                    *(f"--IdentityProvider.token={self.token}", "--ServerApp.port_retries=0"),
                    *(f"--ServerApp.root_dir={site.folder}", *flags),
                ],
                env={
                    **os.environ,
                    "HOME": str(site.folder.parent / "home"),
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
                stdout=log,
                stderr=log,
            )

    def ask(self, method, path, body=None):
        """Return the status and the answer of a REST request."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self.token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=kernels.ANSWER_S) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def await_start(self):
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.ask("GET", "status")
            except OSError:
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.1)

    def start(self, name="plain"):
        status, model = self.ask("POST", "kernels", {"name": name})
        assert status == 201, model
        return model["id"]

    @contextmanager
    def channels(self, kernel):
        import websocket

        url = f"ws://127.0.0.1:{self.port}/api/kernels/{kernel}/channels?token={self.token}"
        with closing(websocket.create_connection(url, timeout=kernels.ANSWER_S)) as opened:
            yield opened


def say(channels, channel, kind, content, parent=None):
    """Send a message over the websocket; return its id."""
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": kind,
        "session": "s",
        "username": "u",
        "version": "5.3",
        "date": "2026-01-01T00:00:00Z",
    }
    message = {"header": header, "parent_header": parent or {}, "metadata": {}, "content": content}
    channels.send(json.dumps({**message, "channel": channel}))
    return header["msg_id"]


def send(channels, code, *, allow_stdin=False):
    """Ask for an execution over the websocket; return the request's id."""
    content = {"code": code, "silent": False, "allow_stdin": allow_stdin, "stop_on_error": True}
    return say(channels, "shell", "execute_request", content)


def execute(channels, code, began=None):
    """Execute over the websocket; return what was printed and the reply's content."""
    asked = send(channels, code)
    printed, reply, idle = "", None, False
    while reply is None or not idle:  # they come on channels of their own, in either order
        message = json.loads(channels.recv())
        if message["parent_header"].get("msg_id") != asked:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            printed += content["text"]
        elif kind == "execute_input" and began:
            began()
        elif kind == "execute_reply":
            reply = content
        elif kind == "status":
            idle = content["execution_state"] == "idle"
    return printed, reply


@contextmanager
def serving(site, *flags):
    server = Server(site, *flags)
    try:
        server.await_start()
        yield server
    finally:
        server.process.terminate()
        try:
            server.process.wait(20)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


def test_start_execute_interrupt_restart_shut_down_and_a_start_that_fails(site):
    with serving(site) as server:
        kernel = server.start()
        with server.channels(kernel) as channels:
            printed, _ = execute(channels, "print(1); open('/root/kept', 'w').close()")
            assert printed == "1\n"

            def interrupt():
                assert server.ask("POST", f"kernels/{kernel}/interrupt", {})[0] == 204

            _, reply = execute(channels, "import time; time.sleep(30)", interrupt)
            assert reply["ename"] == "KeyboardInterrupt"
        assert server.ask("POST", f"kernels/{kernel}/restart", {})[0] == 200
        with server.channels(kernel) as channels:
            printed, _ = execute(channels, "import os; print(os.path.exists('/root/kept'))")
            assert printed == "True\n"
        assert server.ask("DELETE", f"kernels/{kernel}")[0] == 204
        site.assert_gone()

        # As JupyterLab starts them: its dialog shows the message.
        session = {"name": "", "path": "n.ipynb", "type": "notebook", "kernel": {"name": "bad"}}
        status, answer = server.ask("POST", "sessions", session)
        assert status == 500
        assert "nowhere.invalid/nothing:1" in answer["message"]
        site.assert_gone()


def test_another_container_is_asked_for_and_answered_on_one_websocket(site):
    """As in JupyterLab: an answer names its question, and the connection stays."""
    with serving(site) as server:
        kernel = server.start()
        with server.channels(kernel) as channels:
            execute(channels, "x = 1; open('/root/loose', 'w').close()")
            asked = send(channels, "%container undo", allow_stdin=True)
            seen = []
            while ("status", "restarting") not in seen:
                message = json.loads(channels.recv())
                kind, content = message["msg_type"], message["content"]
                seen.append((kind, content.get("execution_state", content.get("status"))))
                if kind == "input_request":
                    assert "variables are lost" in content["prompt"]
                    say(channels, "stdin", "input_reply", {"value": "y"}, message["header"])
                if kind == "execute_reply":
                    assert message["parent_header"]["msg_id"] == asked
            assert seen.count(("status", "idle")) >= 1  # the cell's own, before
            printed, reply = execute(
                channels, "import os; print('x' in dir(), os.path.exists('/root/loose'))"
            )
            assert (printed, reply["execution_count"]) == ("False False\n", 1)
        assert server.ask("POST", f"kernels/{kernel}/restart", {})[0] == 200
        with server.channels(kernel) as channels:
            assert execute(channels, "print(1)")[0] == "1\n"
        assert server.ask("DELETE", f"kernels/{kernel}")[0] == 204
    site.assert_gone()


def test_a_kernel_that_dies_is_started_again_with_its_files(site):
    with serving(site, "--AsyncIOLoopKernelRestarter.time_to_dead=0.2") as server:
        kernel = server.start()
        with server.channels(kernel) as channels:
            execute(channels, "open('/root/kept', 'w').close()")
            before = site.gates()
            send(channels, "import os; os._exit(1)")
            deadline = time.monotonic() + 20
            while site.gates() in ([], before):
                assert time.monotonic() < deadline
                time.sleep(0.1)
        with server.channels(kernel) as channels:
            printed, _ = execute(channels, "import os; print(os.path.exists('/root/kept'))")
            assert printed == "True\n"
    site.assert_gone()


def test_a_cell_is_told_why_its_kernel_died_and_that_is_started_again(site):
    with serving(site, "--AsyncIOLoopKernelRestarter.time_to_dead=0.2") as server:
        kernel = server.start()
        with server.channels(kernel) as channels:
            asked = send(channels, "import os; os.kill(os.getpid(), 9)")
            told = None
            while told is None:
                message = json.loads(channels.recv())
                assert message["msg_type"] != "execute_reply"  # none is made up
                if message["msg_type"] == "error":
                    assert message["parent_header"]["msg_id"] == asked
                    told = message["content"]["evalue"]
        assert told == "the kernel ended: by SIGKILL (exit status 137)"
        with server.channels(kernel) as channels:
            assert execute(channels, "print(1)")[0] == "1\n"
        assert server.ask("DELETE", f"kernels/{kernel}")[0] == 204
    site.assert_gone()


def test_an_idle_kernel_is_culled_and_nothing_of_it_is_left(site):
    flags = ("cull_idle_timeout=1", "cull_interval=1", "cull_connected=True")
    with serving(site, *(f"--MappingKernelManager.{flag}" for flag in flags)) as server:
        server.start()
        assert site.left()
        deadline = time.monotonic() + 20
        while server.ask("GET", "kernels")[1]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        site.assert_gone()


def test_sigkill_of_the_server_leaves_nothing(site):
    with serving(site) as server:
        kernels_started = [server.start(), server.start()]
        assert len(site.gates()) == len(kernels_started)
        server.process.kill()
        server.process.wait()
        deadline = time.monotonic() + kernels.GONE_S
        while set(site.left()) - {"connection files"} and time.monotonic() < deadline:
            time.sleep(0.1)
        # The server's own, as with local kernels: only their paths are in them.
        assert set(site.left()) <= {"connection files"}
        for file in site.runtime.glob("kernel-*"):
            file.unlink()
