"""What the engine tells developers of: loggers of the standard library, which nobody pays for.

``logging`` is imported by whoever wants to hear, and not by the engine: without it there is no
handler, and nothing is told. Credentials, values of environment variables, and what goes in and
out of containers are never logged. The loggers are named as the modules that speak, below
``cellblock_engine``.
"""

from __future__ import annotations

import sys


class Log:
    """The logger of one module."""

    def __init__(self, module: str) -> None:
        self._module = module

    def debug(self, message: str, *arguments: object) -> None:
        """Tell what only the search for a defect needs."""
        self._tell("debug", message, arguments)

    def info(self, message: str, *arguments: object) -> None:
        """Tell what was done that its caller does not see otherwise."""
        self._tell("info", message, arguments)

    def _tell(self, level: str, message: str, arguments: tuple[object, ...]) -> None:
        logging = sys.modules.get("logging")
        if logging is not None:
            getattr(logging.getLogger(self._module), level)(message, *arguments)
