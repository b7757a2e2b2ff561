"""A scope of systemd's for a spawner and its containers: asked for by whoever starts the spawner.

The scope is delegated: systemd leaves what is below it alone, and removes it with its last process.
org.freedesktop.systemd1(5), systemd.scope(5), systemd's CGROUP_DELEGATION.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..linux.cgroups import SCOPE_PREFIX, Controllers, Delegable, settle

if TYPE_CHECKING:
    from jeepney import MatchRule, Message
    from jeepney.io.blocking import DBusConnection

_NAME = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_PATIENCE_S = 10.0
_NO_LIMIT = 2**64 - 1
_MOST_SIGNALS = 1000

Property = tuple[str, tuple[str, Any]]


class Undelegated(Exception):
    """Why systemd gave no scope, in one line."""


def delegate(given: Delegable, pid: int, store: str) -> None:
    """Return when ``pid``, and whoever it starts from then on, is alone in a scope for ``store``.

    Raises Undelegated.
    """
    # Here and below: seldom needed, and never by whoever runs containers.
    from jeepney import DBusErrorResponse  # noqa: PLC0415
    from jeepney.auth import AuthenticationError  # noqa: PLC0415

    try:
        with _connection(given.bus) as connection:
            _start_scope(connection, _unit_name(store), _properties(given, pid))
    except DBusErrorResponse as error:
        said = " ".join(str(part) for part in error.data or ()) or str(error.name)
        raise Undelegated(f"systemd gave no scope: {' '.join(said.split())}") from error
    except (OSError, AuthenticationError, ValueError) as error:
        raise Undelegated(f"systemd does not answer on {given.bus}: {error}") from error


@contextmanager
def trial(given: Delegable) -> Iterator[Controllers]:
    """Give what can be limited in a scope that goes with the block.

    Raises Undelegated, OSError, LimitNotEnforceable.
    """
    waiting = [sys.executable, "-I", "-S", "-c", "input()"]
    with subprocess.Popen(
        waiting, env={}, cwd="/", stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            delegate(given, process.pid, "trial")
            yield settle(process.pid)
        finally:
            process.kill()


@contextmanager
def _connection(bus: str) -> Iterator[DBusConnection]:
    """Connect to a bus for ``_PATIENCE_S`` at most; what takes longer is a ConnectionError."""
    from jeepney.io.blocking import DBusConnection, prep_socket  # noqa: PLC0415

    sock = prep_socket(bus, timeout=_PATIENCE_S)

    def give_up() -> None:
        with suppress(OSError):  # closed meanwhile
            sock.shutdown(socket.SHUT_RDWR)

    deadline = threading.Timer(_PATIENCE_S, give_up)
    deadline.daemon = True
    deadline.start()
    try:
        with DBusConnection(sock) as connection:
            yield connection
    finally:
        deadline.cancel()
        sock.close()


def _unit_name(store: str) -> str:
    # Not by the process's id: a scope stays with its containers, and ids come again.
    return f"{SCOPE_PREFIX}{store}-{secrets.token_hex(4)}.scope"


def _properties(given: Delegable, pid: int) -> list[Property]:
    properties: list[Property] = [
        ("Description", ("s", "Containers of cellblock")),
        ("Delegate", ("b", True)),
        ("PIDs", ("au", [pid])),
        ("CollectMode", ("s", "inactive-or-failed")),
        # What a unit gets by default is meant for one service; containers have limits of their own.
        ("TasksMax", ("t", _NO_LIMIT)),
    ]
    if given.slice_name is not None:
        properties.append(("Slice", ("s", given.slice_name)))
    return properties


def _start_scope(connection: DBusConnection, name: str, properties: list[Property]) -> None:
    from jeepney import DBusAddress, message_bus, new_method_call  # noqa: PLC0415

    systemd = DBusAddress(_PATH, bus_name=_NAME, interface=_MANAGER)
    _ask(connection, message_bus.AddMatch(_end_of_job(name, sender=_NAME)))
    with connection.filter(_end_of_job(name), bufsize=_MOST_SIGNALS) as signals:
        words: tuple[Any, ...] = (name, "fail", properties, [])
        call = new_method_call(systemd, "StartTransientUnit", "ssa(sv)a(sa(sv))", words)
        who = _sender(_ask(connection, call))
        # Anybody on the bus can send such a signal, and has seen the unit's name.
        while _sender(signal := connection.recv_until_filtered(signals)) != who:
            pass
        result = signal.body[3]
    if result != "done":
        raise Undelegated(f"systemd gave no scope: its job ended with {result!r}")


def _end_of_job(name: str, sender: str | None = None) -> MatchRule:
    """Return a rule for the end of the job of a unit; the signal's sender has a unique name."""
    from jeepney import MatchRule  # noqa: PLC0415

    rule = MatchRule(
        type="signal", sender=sender, interface=_MANAGER, member="JobRemoved", path=_PATH
    )
    rule.add_arg_condition(2, name)
    return rule


def _ask(connection: DBusConnection, message: Message) -> Message:
    from jeepney.wrappers import unwrap_msg  # noqa: PLC0415

    reply = connection.send_and_get_reply(message)
    unwrap_msg(reply)
    return reply


def _sender(message: Message) -> str | None:
    """Return the unique name of who sent it, as the bus says."""
    from jeepney import HeaderFields  # noqa: PLC0415

    sender: str | None = message.header.fields.get(HeaderFields.sender)
    return sender
