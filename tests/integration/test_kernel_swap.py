"""Another container takes the place of a live session's: front ends keep their sockets."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from jupyter_core.utils import run_sync

from cellblock_engine import Engine
from cellblock_kernel.gate import house
from cellblock_kernel.gate.options import GateOptions, KernelOptions
from cellblock_kernel.gate.reports import SWAP, word
from cellblock_kernel.gate.room import Room
from support import kernels
from support.kernels import run

SHOW = "import os; print(os.environ.get('MARK'), 'x' in dir())"
# A kernel that counts who connects to its sockets, and answers nobody.
COUNTS = """
import collections, json, selectors, socket, sys, time
plain = json.load(open(sys.argv[1]))
found, waiting = collections.Counter(), selectors.DefaultSelector()
for channel in ("shell", "control", "stdin", "iopub", "hb"):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"{plain['ip']}-{plain[channel + '_port']}")
    sock.listen()
    waiting.register(sock, selectors.EVENT_READ, channel)
until, kept = time.monotonic() + 1.5, []
while (left := until - time.monotonic()) > 0:
    for key, _ in waiting.select(left):
        kept.append(key.fileobj.accept())
        found[key.data] += 1
open("counts.json", "w").write(json.dumps(found))
"""
FAILING = (("python", "-c", "exit('not today')"), ("no-such-command",))


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    with kernels.site(tmp_path_factory.mktemp("swap")) as made:
        made.install("plain")
        made.install("kept", keep=True)
        made.install("wild", untrusted=True)
        yield made


@pytest.fixture
def engine(site):
    with Engine.open(site.home) as opened:
        yield opened


def made_for(engine, site, km, argv=kernels.IPYKERNEL, room=None):
    """Make a container for a kernel's room; return its id."""
    file = Path(km.connection_file)
    words = tuple(str(file) if word == "{connection_file}" else word for word in argv)
    options = GateOptions(file, KernelOptions(env=("MARK=other",)), words)
    env = house.environment(options.kernel, os.environ)
    request = house.request(options, Room(room or Path(km.ip).parent), env, site.folder)
    return engine.create(request).id


def swap(km, container):
    run_sync(km.provisioner.swap)(container)


def heard(kc, channel, seconds=1.0):
    """Return all messages of a channel until it is silent."""
    from queue import Empty

    found = []
    while True:
        try:
            found.append(getattr(kc, f"get_{channel}_msg")(timeout=seconds))
        except Empty:
            return found


def of(messages, parent):
    return [message for message in messages if message["parent_header"].get("msg_id") == parent]


def test_the_session_goes_on_in_the_other_container(site, engine):
    with site.kernel("plain") as (km, kc):
        before = km.provisioner._container
        (gate,) = site.gates()
        run(kc, "x = 1")
        assert run(kc, SHOW) == "None True\n"
        other = made_for(engine, site, km)
        swap(km, other)
        assert run(kc, SHOW) == "other False\n"
        assert site.gates() == [gate]
        assert [info.id for info in engine.containers()] == [other]
        assert not kernels.cgroups_of(before)
        # What comes after is the other's: interrupt, a restart with its files, and its end.
        kc.execute("import time; time.sleep(30)", stop_on_error=False)
        time.sleep(0.5)
        km.interrupt_kernel()
        assert kc.get_shell_msg(timeout=10)["content"]["ename"] == "KeyboardInterrupt"
        run(kc, "open('/root/kept', 'w').close()")
        km.restart_kernel()
        kc.wait_for_ready(timeout=30)
        assert run(kc, SHOW) == "other False\n"
        assert run(kc, "print(os.path.exists('/root/kept'))") == "True\n"
    site.assert_gone()


def test_what_is_open_is_answered_and_closed(site, engine):
    with site.kernel("plain") as (km, kc):
        run(kc, "from ipykernel.comm import Comm; c = Comm(target_name='t'); print(c.comm_id)")
        heard(kc, "iopub", 0.3)
        running = kc.execute("import time; time.sleep(60)")
        queued = kc.execute("print('never')")
        time.sleep(0.5)
        swap(km, made_for(engine, site, km))
        said = heard(kc, "iopub")
        kinds = [(message["msg_type"], message["content"]) for message in of(said, running)]
        assert [kind for kind, _ in kinds] == ["status", "execute_input", "error", "status"]
        assert kinds[2][1]["ename"] == "KernelSwapped"
        assert kinds[3][1] == {"execution_state": "idle"}
        assert [message["content"] for message in of(said, queued)] == [{"execution_state": "idle"}]
        replies = heard(kc, "shell", 0.3)
        (reply,) = of(replies, running)
        assert reply["msg_type"] == "execute_reply"
        assert (reply["content"]["status"], reply["content"]["ename"]) == ("error", "KernelSwapped")
        (reply,) = of(replies, queued)
        assert reply["content"] == {"status": "aborted"}
        rest = [
            (message["msg_type"], message["content"].get("execution_state"))
            for message in said
            if not message["parent_header"]
        ]
        assert rest[:3] == [("comm_close", None), ("status", "restarting"), ("status", "idle")]
        assert "never" not in str(said)
        assert run(kc, SHOW) == "other False\n"
    site.assert_gone()


@pytest.mark.parametrize("name", ["plain", "wild"])
def test_host_cells_end_with_it_and_go_on_in_the_next(site, engine, name):
    with site.kernel(name) as (km, kc):
        run(kc, "")
        heard(kc, "iopub", 0.3)
        cells = [
            kc.execute("\n".join(["%container stats"] * 90), stop_on_error=False),
            kc.execute("%container info"),  # held by the gate
            kc.execute("print('held too')"),
        ]
        info = kc.kernel_info()
        time.sleep(0.5)
        other = made_for(engine, site, km)
        swap(km, other)
        shell, iopub = heard(kc, "shell"), heard(kc, "iopub")
        for msg_id in (*cells, info):
            (reply,) = of(shell, msg_id)
            assert reply["content"]["status"] in ("error", "aborted")
            states = [one for one in of(iopub, msg_id) if one["msg_type"] == "status"]
            assert states[-1]["content"]["execution_state"] == "idle"
        (first,) = of(shell, cells[0])
        assert first["content"]["ename"] == "KernelSwapped"
        assert run(kc, SHOW) == "other False\n"
        assert other in run(kc, "%container info")
    site.assert_gone()


@pytest.mark.parametrize("argv", FAILING)
def test_one_that_fails_changes_nothing(site, engine, argv):
    with site.kernel("plain") as (km, kc):
        before = km.provisioner._container
        run(kc, "x = 1")
        running = kc.execute("import time; time.sleep(1.5); print('done')")
        other = made_for(engine, site, km, argv)
        with pytest.raises(RuntimeError) as caught:
            swap(km, other)
        message = str(caught.value)
        assert ("not today" in message) or ("no-such-command" in message)
        assert message.isprintable()
        assert kc.get_shell_msg(timeout=10)["parent_header"]["msg_id"] == running
        assert run(kc, SHOW) == "None True\n"
        assert km.provisioner._container == before
        assert {info.id for info in engine.containers()} == {before, other}
        engine.container(other).remove()
        # Its room is whole: a restart, and then a swap, find what they need.
        km.restart_kernel()
        kc.wait_for_ready(timeout=30)
        swap(km, made_for(engine, site, km))
        assert run(kc, SHOW) == "other False\n"
    site.assert_gone()


def test_what_was_not_made_for_this_room_is_refused(site, engine, tmp_path):
    with site.kernel("plain") as (km, kc):
        (tmp_path / "inside").mkdir()
        stranger = made_for(engine, site, km, room=tmp_path)
        for container, told in ((stranger, "was not made for this kernel"), ("0" * 64, "0000")):
            with pytest.raises(RuntimeError, match=told):
                swap(km, container)
        with pytest.raises(RuntimeError, match="running already"):
            swap(km, km.provisioner._container)
        assert run(kc, SHOW) == "None False\n"
        engine.container(stranger).remove()
    site.assert_gone()


def test_a_kernel_that_dies_meanwhile_is_told_as_ever(site, engine):
    """The other hangs in its start: then there is nothing to go on in."""
    hangs = ("python", "-c", "import time; time.sleep(60)")
    with site.kernel("plain") as (km, kc):
        other = made_for(engine, site, km, hangs)
        asked = kc.execute("import os, time; time.sleep(1); os._exit(3)")
        with pytest.raises(RuntimeError, match="ended before another could take its place"):
            swap(km, other)
        errors = [m for m in of(heard(kc, "iopub"), asked) if m["msg_type"] == "error"]
        assert [error["content"]["ename"] for error in errors] == ["KernelEnded"]
        assert not kernels.cgroups_of(other)
        engine.container(other).remove()
    site.assert_gone()


def test_a_shutdown_meanwhile_leaves_nothing(site, engine):
    hangs = ("python", "-c", "import time; time.sleep(60)")
    with site.kernel("plain") as (km, _):
        other = made_for(engine, site, km, hangs)
        km.provisioner._words.send(word(SWAP, other))
        time.sleep(0.5)
        assert kernels.cgroups_of(other)
    assert not kernels.cgroups_of(other)
    engine.container(other).remove()
    site.assert_gone()


def test_one_that_was_asked_for_elsewhere_is_known_at_a_restart(site, engine):
    """As host cells ask for it: the provisioner has awaited nothing."""
    with site.kernel("plain") as (km, kc):
        other = made_for(engine, site, km)
        km.provisioner._words.send(word(SWAP, other))
        deadline = time.monotonic() + 20
        while [info.id for info in engine.containers()] != [other]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        km.restart_kernel()
        kc.wait_for_ready(timeout=30)
        assert run(kc, SHOW) == "other False\n"
    site.assert_gone()


def test_what_is_to_be_kept_is(site, engine):
    with site.kernel("kept") as (km, kc):
        before, other = km.provisioner._container, made_for(engine, site, km)
        swap(km, other)
        assert run(kc, SHOW) == "other False\n"
        assert {info.id for info in engine.containers()} == {before, other}
    for container in (before, other):
        engine.container(container).remove()
    site.assert_gone()


def test_what_was_connected_to_the_one_before_comes_not_back_to_this_one(site, engine):
    """ZeroMQ connects again by itself; by the same identity it would take the new one's place."""
    counts = site.folder / "counts.json"
    with site.kernel("plain") as (km, _):
        swap(km, made_for(engine, site, km, ("python", "-c", COUNTS, "{connection_file}")))
        deadline = time.monotonic() + 20
        while km.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert set(json.loads(counts.read_text()).values()) == {1}
    counts.unlink()
    site.assert_gone()


def test_again_and_again_leaks_nothing(site, engine):
    with site.kernel("plain") as (km, kc):
        (gate,) = site.gates()
        counts = []
        for _ in range(4):
            swap(km, made_for(engine, site, km))
            assert run(kc, SHOW) == "other False\n"
            counts.append(len(os.listdir(f"/proc/{gate}/fd")))
        assert len(set(counts[1:])) == 1, counts
        assert len(engine.containers()) == 1
        room = Path(km.ip).parent
        assert sorted(os.listdir(room)) == sorted(
            ["lock", "container", "inside", "back", *(f"front-{n}" for n in range(1, 6))]
        )
        os.kill(gate, signal.SIGKILL)
    site.assert_gone()
