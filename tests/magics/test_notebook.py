"""The magics in a real kernel: what a front end receives, and interrupts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

TESTS = Path(__file__).parents[1]
LOAD = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from support.fake_engine import FakeEngine
from cellblock import magic
magic.load(get_ipython(), FakeEngine)
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    manager = KernelManager()
    manager.start_kernel(cwd=str(TESTS))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        reply, _ = run(client, LOAD)
        assert reply["status"] == "ok"
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run(client, code: str, *, allow_stdin: bool = False):
    """Return the reply and the messages that a cell gives."""
    said = []
    reply = client.execute_interactive(
        code, output_hook=said.append, allow_stdin=allow_stdin, timeout=60, stdin_hook=print
    )
    return reply["content"], [(one["msg_type"], one["content"]) for one in said]


def test_an_error_is_one_line_for_the_front_end(kernel):
    reply, said = run(kernel[1], "%container logs nope")
    assert (reply["status"], reply["ename"]) == ("error", "ContainerNotFound")
    (error,) = [content for kind, content in said if kind == "error"]
    assert error["traceback"] == ["ContainerNotFound: no container nope: see ps -a"]


def test_a_list_has_html_for_people(kernel):
    _, said = run(kernel[1], "%container images")
    (result,) = [content for kind, content in said if kind == "execute_result"]
    assert "123MB" in result["data"]["text/html"]
    assert "123MB" in result["data"]["text/plain"]


def test_lists_are_data_with_types(kernel):
    code = """
steps = %container history python:3.12-slim
changes = %container diff up
print(*steps.dtypes, *changes.dtypes)
print(steps.size_bytes.sum(), changes.groupby("change").size_bytes.sum().to_dict())
"""
    _, said = run(kernel[1], code)
    text = "".join(content["text"] for kind, content in said if kind == "stream")
    types, values = text.splitlines()
    assert types.split(", UTC] ")[0] == "datetime64[us"
    assert types.split() == [
        "datetime64[us,", "UTC]", "str", "str", "str", "int64", "str", "Int64",
        "str", "str", "str", "str", "str", "int64",
    ]  # fmt: skip
    assert values == "48000000 {'A': 2000, 'C': 0, 'D': 4000}"


def test_a_plot_is_one_picture(kernel):
    _, said = run(kernel[1], "%container history --plot python:3.12-slim")
    pictures = [content["data"] for _, content in said if "image/png" in content.get("data", {})]
    assert len(pictures) == 1
    reply, said = run(kernel[1], "%container container prune")
    assert (reply["status"], reply["ename"]) == ("error", "InvalidInput")
    (error,) = [content for kind, content in said if kind == "error"]
    assert error["traceback"][0].endswith("-f prunes without asking")


@pytest.mark.parametrize("watched", [True, False])
def test_a_pull_shows_bars_to_those_who_watch(kernel, watched):
    _, said = run(kernel[1], f"%container pull debian:{int(watched)}", allow_stdin=watched)
    shown = [content["data"] for kind, content in said if kind == "display_data"]
    widgets = [data for data in shown if "application/vnd.jupyter.widget-view+json" in data]
    assert len(widgets) == int(watched)
    last = [content["data"] for kind, content in said if kind == "update_display_data"][-1]
    assert list(last) == ["text/plain"]
    assert last["text/plain"].startswith("debian:")


def test_an_interrupt_ends_the_command_and_not_the_kernel(kernel):
    manager, client = kernel
    script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.1; done"
    said: list[tuple[str, str]] = []
    begun = time.monotonic()

    def hear(message) -> None:
        if message["msg_type"] == "stream":
            said.append((message["content"]["name"], message["content"]["text"]))
            if "ready" in message["content"]["text"]:
                manager.interrupt_kernel()

    reply = client.execute_interactive(
        f'%container run host sh -c "{script}"', output_hook=hear, timeout=60, allow_stdin=False
    )
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert "".join(text for name, text in said if name == "stdout") == "ready\ncaught\n"
    assert time.monotonic() - begun < 10
    assert run(client, "1 + 1")[0]["status"] == "ok"


def test_loading_the_extension_stays_cheap(kernel):
    code = "print([name for name in ('urllib3', 'rich.progress') if name in sys.modules])"
    _, said = run(kernel[1], code)
    (text,) = [content["text"] for kind, content in said if kind == "stream"]
    assert text == "[]\n"
