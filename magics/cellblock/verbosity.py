"""How much the command tells of what the engine does: ``--log-level``, ``CELLBLOCK_LOG``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cellblock_engine import InvalidInput

LEVELS = ("debug", "info", "warn", "error", "fatal")
VARIABLE = "CELLBLOCK_LOG"
_LEVEL_FLAGS = ("-l", "--log-level")
_LOGGERS = ("cellblock_engine", "cellblock_kernel", "cellblock")


@dataclass(frozen=True)
class Verbosity:
    """The level asked for, None for silence, and the words that follow the flags."""

    level: str | None
    rest: tuple[str, ...]

    @classmethod
    def parse(cls, words: Sequence[str], environ: Mapping[str, str]) -> Verbosity:
        """Return what the flags before the verb say, or else the variable. Raises InvalidInput."""
        level = environ.get(VARIABLE) or None
        if level is not None:
            level = _known(level, VARIABLE)
        rest = list(words)
        while rest:
            name, equals, value = rest[0].partition("=")
            if rest[0] in ("-D", "--debug"):
                level = "debug"
            elif name in _LEVEL_FLAGS:
                if not equals:
                    if len(rest) == 1:
                        raise InvalidInput(f"{name} wants a level: one of {', '.join(LEVELS)}")
                    value = rest.pop(1)
                level = _known(value, name)
            else:
                break
            del rest[0]
        return cls(level, tuple(rest))


def tell(level: str) -> None:
    """Have the loggers of cellblock write to stderr what is of ``level`` or above."""
    import logging  # noqa: PLC0415 - silent commands do without it

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(level.upper())
        logger.handlers = [handler]
        logger.propagate = False


def _known(level: str, where: str) -> str:
    if level.lower() not in LEVELS:
        raise InvalidInput(f"{where}: {level!r} is no level: use one of {', '.join(LEVELS)}")
    return level.lower()
