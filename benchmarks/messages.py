"""What the gate costs a message: a local ipykernel as it is, and behind the gate's relay.

The gate has the rules of a trusted kernel, or of one that is not.

By themselves, as any user: ``python -m benchmarks.messages``.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from .rounds import Contestant, markdown

ROUNDS = 5
REPEATS = 200
_START_S = 60.0
_ANSWER_S = 30.0
KERNELS = {
    "plain": ("ipykernel_launcher",),
    "gate": ("support.local_gate",),
    "gate, untrusted": ("support.local_gate", "--untrusted"),
}
CELLS = {
    "one display of 50 MB": "display({'text/plain': 'x' * 50_000_000}, raw=True)",
    "10,000 displays": "for n in range(10_000): display(n)",
}


def tables(stack: ExitStack, rounds: int) -> str:
    """Measure, and return a table for each kind of message."""
    clients = {name: _start(stack, *words) for name, words in KERNELS.items()}
    runs: dict[str, Callable[[BlockingKernelClient], object]] = {
        f"{REPEATS} executes": lambda client: [_execute(client, "1") for _ in range(REPEATS)],
        f"{REPEATS} requests on control": _control,
    }
    for title, code in CELLS.items():
        runs[title] = lambda client, code=code: _execute(client, code)
    return "\n".join(
        markdown(title, [_contestant(*pair, run) for pair in clients.items()], rounds, "plain")
        for title, run in runs.items()
    )


def _contestant(
    name: str, client: BlockingKernelClient, run: Callable[[BlockingKernelClient], object]
) -> Contestant:
    return Contestant(name, lambda: run(client))


def _start(stack: ExitStack, module: str, *flags: str) -> BlockingKernelClient:
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="cb-msg-"))
    manager = KernelManager(transport="ipc", ip=f"{directory}/front")
    manager.connection_file = f"{directory}/connection.json"
    manager._kernel_spec = KernelSpec(
        argv=[sys.executable, "-m", module, "-f", "{connection_file}", *flags], language="python"
    )
    manager.start_kernel()
    stack.callback(manager.shutdown_kernel, now=False)
    client = manager.client()
    client.start_channels()
    stack.callback(client.stop_channels)
    client.wait_for_ready(timeout=_START_S)
    return client


def _execute(client: BlockingKernelClient, code: str) -> None:
    """Run a cell until its reply and its last output are here."""
    client.execute_interactive(code, timeout=_ANSWER_S, output_hook=lambda _message: None)


def _control(client: BlockingKernelClient) -> None:
    for _ in range(REPEATS):
        request = client.session.msg("kernel_info_request", {})
        client.control_channel.send(request)
        client.get_control_msg(timeout=_ANSWER_S)


if __name__ == "__main__":
    with ExitStack() as stack:
        sys.stdout.write(tables(stack, ROUNDS))
