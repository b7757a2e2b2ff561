"""What the two verbs that commit are told: flags, and the request that they make."""

from __future__ import annotations

from cellblock_engine import CommitRequest, InvalidInput

from .declaration import Argument, Call

_MOST_DIGITS = 12
CHANGE = Argument(
    ("-c", "--change"),
    "a Dockerfile's instruction for how it is run: 'ENV A=b', 'CMD [\"jupyter\", \"lab\"]'",
    "each",
    "INSTRUCTION",
)
MESSAGE = Argument(("-m", "--message"), "what the history is to say of it", default="")
COMMIT_FLAGS = (
    MESSAGE,
    Argument(("-a", "--author"), "who made it", default=""),
    CHANGE,
    Argument(("--squash",), "all changes in one layer, whatever was committed before", "flag"),
    Argument(
        ("--exclude",),
        "leave out what matches, as in a .dockerignore: 'home/*/data', '**/*.log', '!keep.log'",
        "each",
        "PATTERN",
    ),
    Argument(
        ("--no-default-excludes",),
        "keep what is left out otherwise: what is in /tmp, /var/tmp and /run, caches of pip and "
        "apt, histories of what was typed",
        "flag",
    ),
)


def commit_request(call: Call) -> CommitRequest:
    """Return what the flags of a commit ask for. Raises InvalidInput."""
    given = call.arguments
    return CommitRequest(
        comment=given.message,
        author=given.author,
        changes=tuple(given.change),
        squash=given.squash,
        provenance=call.executed.provenance if call.executed else None,
        exclude=tuple(given.exclude),
        default_excludes=not given.no_default_excludes,
        epoch_s=epoch_s(call),
    )


def epoch_s(call: Call) -> int | None:
    """Return what SOURCE_DATE_EPOCH says, in seconds, if it is set. Raises InvalidInput."""
    text = call.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise InvalidInput(
            f"SOURCE_DATE_EPOCH {text[:40]!r} is not valid: give seconds since 1970, or unset it"
        )
    return int(text)
