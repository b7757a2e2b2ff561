"""login, logout."""

from __future__ import annotations

from cellblock_engine import InvalidInput

from .declaration import Argument, Call, Verb
from .outcome import Acknowledged

_HUB = "docker.io"
_OTHERWISE = "use the cellblock command's login --password-stdin"


def login(call: Call) -> Acknowledged:
    """Check a user name and password with a registry, and keep them where Docker does."""
    given = call.arguments
    if given.password is not None:
        raise InvalidInput(
            "a password among the words of a command is seen by others and stays in histories: "
            "leave -p out and you are asked, or use --password-stdin"
        )
    if given.password_stdin and given.username is None:
        raise InvalidInput("--password-stdin needs -u: the user name cannot come from stdin too")
    if given.password_stdin:
        username, password = given.username, call.asking.piped()
    else:
        username = given.username or call.asking.visible("Username: ", otherwise=_OTHERWISE)
        password = call.asking.secret("Password: ", otherwise=_OTHERWISE)
    kept = call.engine.login(given.registry or "", username, password)
    return Acknowledged((f"Login Succeeded: {username} on {_shown(call)}, {kept}",))


def logout(call: Call) -> Acknowledged:
    """Forget the credentials for a registry."""
    if call.engine.logout(call.arguments.registry or ""):
        return Acknowledged((f"Removed the login credentials for {_shown(call)}",))
    return Acknowledged((f"Not logged in to {_shown(call)}",))


def _shown(call: Call) -> str:
    name = call.arguments.registry or _HUB
    return str(name).removeprefix("https://").removeprefix("http://").partition("/")[0]


_REGISTRY = Argument(
    ("registry",), f"its host, as quay.io or registry.lan:5000 ({_HUB})", "optional", "REGISTRY"
)

VERBS = (
    Verb(
        "login",
        "Log in to a registry",
        (
            Argument(
                ("-u", "--username"), "user name; you are asked for it without", metavar="NAME"
            ),
            Argument(("--password-stdin",), "take the password from stdin", "flag"),
            Argument(
                ("-p", "--password"),
                "refused: others would see it; you are asked",
                metavar="PASSWORD",
            ),
            _REGISTRY,
        ),
        login,
    ),
    Verb("logout", "Log out from a registry", (_REGISTRY,), logout),
)
