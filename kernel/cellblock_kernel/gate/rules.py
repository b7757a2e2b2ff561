"""What a relay asks of each message that passes: the seam at which a gate can do more than relay.

Rules stand in a row between front end and kernel. What a front end asks meets them from the last
to the first, what the kernel says from the first to the last; heartbeats and welcomes meet none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from .messages import Message


class Rule(Protocol):
    """Looks at the messages of one kernel, and says what passes in their place."""

    def inward(self, channel: str, message: Message) -> Iterable[Message]:
        """Return what passes of a front end's message: itself, another, several, nothing."""

    def outward(self, channel: str, message: Message) -> Iterable[Message]:
        """Return what passes of a kernel's message, whatever hostile code has put in it."""


class Passage(Protocol):
    """What a rule may do by itself, on the relay's own thread."""

    def pass_inward(self, channel: str, message: Message, beyond: Rule) -> None:
        """Pass a message on to the kernel, by the rules between ``beyond`` and it."""

    def pass_outward(self, channel: str, message: Message, beyond: Rule) -> None:
        """Pass a message on to the front end, by the rules between ``beyond`` and it."""

    def pause(self, channel: str) -> None:
        """Ask the front end for nothing more on a channel: what it sends waits with it."""

    def resume(self, channel: str) -> None:
        """Ask it again."""

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever ``fd`` can be read, or has ended."""

    def unwatch(self, fd: int) -> None:
        """Watch it no longer."""
