"""A kernel of another language, on ipykernel's base class as bash_kernel is: each cell is sh's.

``python -m support.shell_kernel -f CONNECTION_FILE`` is a kernelspec's argv.
"""

from __future__ import annotations

import subprocess
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel


class ShellKernel(Kernel):
    """Runs a cell as a script, and shows what it prints."""

    implementation, implementation_version = "shell", "1"
    language_info = {"name": "sh", "mimetype": "text/x-sh", "file_extension": ".sh"}  # noqa: RUF012
    banner = "sh"

    async def do_execute(self, code: str, silent: bool, *_: Any, **__: Any) -> dict[str, Any]:
        done = subprocess.run(["sh", "-c", code], capture_output=True, text=True, check=False)
        if done.stdout and not silent:
            content = {"name": "stdout", "text": done.stdout}
            self.send_response(self.iopub_socket, "stream", content)
        reply = {"execution_count": self.execution_count, "user_expressions": {}, "payload": []}
        if done.returncode == 0:
            return {"status": "ok", **reply}
        error = {"ename": "Failed", "evalue": str(done.returncode), "traceback": []}
        self.send_response(self.iopub_socket, "error", error)
        return {"status": "error", **reply, **error}


if __name__ == "__main__":
    IPKernelApp.launch_instance(kernel_class=ShellKernel)
