"""A real ipykernel with the magics loaded, driven as a front end drives it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

from cellblock_engine import Engine


@dataclass
class Outputs:
    """What a front end would show below a cell."""

    items: list[tuple[str, object]] = field(default_factory=list)
    reply: dict = field(default_factory=dict)

    def take(self, message: dict) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            if self.items and self.items[-1][0] == content["name"]:
                content["text"] = self.items.pop()[1] + content["text"]
            self.items.append((content["name"], content["text"]))
        elif kind in ("display_data", "execute_result"):
            self.items.append(("display", content["data"]))
        elif kind == "clear_output":
            self.items.append(("clear", content["wait"]))
        elif kind == "error":
            self.items.append(("error", content["traceback"]))

    def text(self, name: str = "stdout") -> str:
        return "".join(text for kind, text in self.items if kind == name)

    @property
    def errors(self) -> list[list[str]]:
        return [lines for kind, lines in self.items if kind == "error"]


class Notebook:
    """A kernel with the magics loaded, on a store of its own or of others."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.manager: KernelManager
        self.client: BlockingKernelClient
        self.manager, self.client = start_new_kernel(
            env={**os.environ, "CELLBLOCK_HOME": str(home)}
        )
        assert self.run("%load_ext cellblock").reply["status"] == "ok"

    def run(
        self,
        code: str,
        outputs: Outputs | None = None,
        answer: Callable[[dict], str] | None = None,
    ) -> Outputs:
        """Run code; ``answer`` is what the user types for the content of an input request."""
        outputs = outputs or Outputs()

        def on_stdin(message: dict) -> None:
            self.client.input(answer(message["content"]))

        reply = self.client.execute_interactive(
            code,
            output_hook=outputs.take,
            allow_stdin=answer is not None,
            stdin_hook=on_stdin if answer is not None else None,
            timeout=60,
        )
        outputs.reply = reply["content"]
        return outputs

    def cell(self, text: str, flags: str = "", outputs: Outputs | None = None) -> Outputs:
        return self.run(f"%%container run {flags}\n{text}", outputs)

    def containers(self) -> int:
        with Engine.open(self.home) as engine:
            return len(engine.containers())

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
