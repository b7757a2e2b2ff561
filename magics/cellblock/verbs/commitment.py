"""What the two verbs that commit are told: flags, and the request that they make."""

from __future__ import annotations

from cellblock_engine import CommitRequest, Provenance

from .declaration import Argument, Call

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
)


def commit_request(call: Call) -> CommitRequest:
    """Return what the flags of a commit ask for. Raises InvalidInput."""
    given = call.arguments
    return CommitRequest(
        comment=given.message,
        author=given.author,
        changes=tuple(given.change),
        squash=given.squash,
        provenance=call.executed.provenance if call.executed else Provenance(),
    )
