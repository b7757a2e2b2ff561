"""What the engine tells developers of: loggers of the standard library, which nobody pays for.

``logging`` is imported by whoever wants to hear, and not by the engine: without it there is no
handler, and nothing is told. Credentials, values of environment variables, and what goes in and
out of containers are never logged. The loggers are named as the modules that speak, below
``cellblock_engine``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

_ENGINE = "cellblock_engine"


def heard_from() -> int | None:
    """Return the least level that somebody hears of, as ``logging`` counts; None for nobody."""
    logging = sys.modules.get("logging")
    if logging is None or not logging.getLogger(_ENGINE).isEnabledFor(logging.INFO):
        return None
    level: int = logging.getLogger(_ENGINE).getEffectiveLevel()
    return level


def hear(level: int, tell: Callable[[tuple[str, int, str]], None]) -> None:
    """Have ``tell`` called with the module, level and message of what is told from now on."""
    import logging  # noqa: PLC0415 - see above

    class Teller(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tell((record.name, record.levelno, record.getMessage()))

    logging.getLogger(_ENGINE).addHandler(Teller())
    logging.getLogger(_ENGINE).setLevel(level)


def repeat(told: tuple[str, int, str]) -> None:
    """Tell here what was told elsewhere."""
    module, level, message = told
    logging = sys.modules.get("logging")
    if logging is not None:
        logging.getLogger(module).log(level, "%s", message)


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
