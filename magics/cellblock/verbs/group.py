"""Verbs of two words (``system info``), and how a user's words find their verb on any surface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cellblock_engine import InvalidInput

from .declaration import HelpRequested, Verb, did_you_mean


@dataclass(frozen=True)
class Group:
    """Verbs that share their first word; ``verbs`` has them by their second."""

    name: str
    summary: str
    verbs: Mapping[str, Verb]

    def help(self, prog: str) -> str:
        """Return what ``--help`` shows; ``prog`` is how the user calls the group."""
        return (
            f"usage: {prog} VERB [OPTIONS] ...\n\n{self.summary}\n\n{listed(self.verbs)}\n\n"
            f"'{prog} VERB --help' tells more.\n"
        )


@dataclass(frozen=True)
class Found:
    """A verb, ``prog`` as the user calls it, and the words for it to parse."""

    verb: Verb
    prog: str
    rest: tuple[str, ...]


def find(
    words: Sequence[str],
    known: Mapping[str, Verb] | Mapping[str, Verb | Group],
    *,
    prog: str,
    overview: Callable[[], str],
) -> Found:
    """Return the verb that ``words`` begin with; ``prog`` is what stands before them.

    Raises InvalidInput with one line, and HelpRequested with the overview, or that of a group.
    """
    name, *rest = words or ["--help"]
    if name in ("-h", "--help", "help"):
        raise HelpRequested(overview())
    if name not in known:
        raise InvalidInput(f"{name!r} is not a verb{did_you_mean(name, known)}; see {prog} --help")
    entry, called = known[name], f"{prog} {name}"
    if isinstance(entry, Group):
        return find(rest, entry.verbs, prog=called, overview=lambda: entry.help(called))
    return Found(entry, called, tuple(rest))


def listed(known: Mapping[str, Verb] | Mapping[str, Verb | Group], before: str = "") -> str:
    """Return a line for each verb and group: ``before``, its name, its summary."""
    width = max(map(len, known))
    return "\n".join(f"  {before}{name:<{width}}  {known[name].summary}" for name in known)
