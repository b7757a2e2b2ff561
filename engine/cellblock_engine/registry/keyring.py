"""Credentials where Docker keeps them: its ``config.json``, and the helpers that it names.

The file is read as Docker's CLI reads it (``auths``, ``credHelpers``, ``credsStore``), and
written so that whatever else is in it stays. Helpers speak the protocol of
docker-credential-helpers: a verb as argument, a question on stdin, JSON on stdout.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import AccessDenied, InvalidAnswer, InvalidInput
from ..oci.jsonobject import JsonObject
from ..oci.reference import DOCKER_HUB
from ..store.locks import Kind, lock
from .auth import Credentials

_HUB_KEY = "https://index.docker.io/v1/"  # what Docker files its own hub under
_MAX_FILE = 2**20
_MAX_ANSWER = 2**18
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HELPER_TIMEOUT_S = 30.0
_LOCK_TIMEOUT_S = 5.0
_TOKEN_USER = "<token>"  # noqa: S105 - a helper's user name that says "this is an identity token"


@dataclass(frozen=True)
class Keyring:
    """The credentials of one user. ``path`` is the file, ``environ`` what helpers are given."""

    path: Path
    environ: Mapping[str, str]
    helper_timeout_s: float = _HELPER_TIMEOUT_S

    @classmethod
    def of(cls, environ: Mapping[str, str] | None = None) -> Keyring:
        """Return the keyring in ``$DOCKER_CONFIG``, else in ``~/.docker``."""
        environ = os.environ if environ is None else environ
        directory = environ.get("DOCKER_CONFIG")
        home = Path(environ.get("HOME") or Path.home())
        return cls((Path(directory) if directory else home / ".docker") / "config.json", environ)

    def find(self, registry: str) -> Credentials | None:
        """Return the credentials for a registry, by its name in references; None without any.

        Raises InvalidInput for a file, and AccessDenied for a helper, that does not serve.
        """
        config = self._read()
        helper = self._helper(config, registry)
        if helper is not None:
            for key in _keys(registry):
                found = self._ask(helper, key)
                if found is not None:
                    return found
        auths = _table(config, "auths", self.path)
        by_host = {_host(key): key for key in reversed(auths)}
        for key in (*_keys(registry), by_host.get(registry, registry)):
            entry = auths.get(key)
            if entry:
                return self._entry(registry, entry)
        return None

    def store(self, registry: str, credentials: Credentials) -> str:
        """Keep the credentials; return where they are now, for people.

        Raises InvalidInput, AccessDenied, Conflict, OSError.
        """
        key = _keys(registry)[0]
        helper = self._helper(self._read(), registry)
        if helper is not None:
            question = {
                "ServerURL": key,
                "Username": credentials.username,
                "Secret": credentials.password,
            }
            status, answer = self._run(helper, "store", json.dumps(question))
            if status:
                raise _failed(helper, "store", answer)
        with self._changing() as config:
            auths = config.setdefault("auths", {})
            # An empty entry, beside a helper, is how Docker knows where somebody is logged in.
            pair = f"{credentials.username}:{credentials.password}".encode()
            auths[key] = {} if helper else {"auth": base64.b64encode(pair).decode("ascii")}
        if helper is not None:
            return f"kept by docker-credential-{helper}"
        return f"kept in {self.path}, not encrypted"

    def erase(self, registry: str) -> Literal["erased", "absent"]:
        """Forget the credentials for a registry, and say whether there were any.

        Raises InvalidInput, AccessDenied, Conflict, OSError.
        """
        config = self._read()
        auths = _table(config, "auths", self.path)
        doomed = [key for key in auths if key in _keys(registry) or _host(key) == registry]
        helper = self._helper(config, registry)
        known = bool(doomed)
        if helper is not None and self._ask(helper, _keys(registry)[0]) is not None:
            status, answer = self._run(helper, "erase", _keys(registry)[0])
            if status:
                raise _failed(helper, "erase", answer)
            known = True
        if doomed:
            with self._changing() as changed:
                for key in doomed:
                    changed.get("auths", {}).pop(key, None)
        return "erased" if known else "absent"

    def _entry(self, registry: str, entry: object) -> Credentials:
        """Return what one member of ``auths`` says."""
        if not isinstance(entry, dict):
            raise self._wrong(f"its entry for {registry} is not an object")
        token = entry.get("identitytoken")
        if isinstance(token, str) and token:
            return Credentials(_TOKEN_USER, token, "identity")
        name, password = entry.get("username"), entry.get("password")
        if entry.get("auth"):
            try:
                pair = base64.b64decode(str(entry["auth"]), validate=True).decode("utf-8")
            except (binascii.Error, UnicodeDecodeError, ValueError):
                raise self._wrong(f"its entry for {registry} is not base64 text") from None
            name, colon, password = pair.partition(":")
            password = password.rstrip("\0") if colon else None
        if not isinstance(name, str) or not isinstance(password, str) or not name:
            raise self._wrong(f"its entry for {registry} has no user name and password")
        return Credentials(name, password)

    def _helper(self, config: Mapping[str, Any], registry: str) -> str | None:
        """Return the helper in charge of a registry."""
        own = _table(config, "credHelpers", self.path)
        chosen = [own[key] for key in (*_keys(registry), registry) if key in own]
        name = chosen[0] if chosen else config.get("credsStore") or None
        if name is not None and (not isinstance(name, str) or not _HELPER.fullmatch(name)):
            raise self._wrong("a credential helper in it has no valid name")
        return name

    def _ask(self, helper: str, key: str) -> Credentials | None:
        status, answer = self._run(helper, "get", key)
        if status:
            # Its only way to say so (credentials.ErrCredentialsNotFound).
            if b"credentials not found" in answer.lower():
                return None
            raise _failed(helper, "get", answer)
        what = f"the answer of docker-credential-{helper}"
        found = JsonObject.decode(answer, what, _MAX_ANSWER)
        name, secret = found.text("Username"), found.text("Secret")
        if name is None or secret is None:
            return None
        return Credentials(name, secret, "identity" if name == _TOKEN_USER else "password")

    def _run(self, helper: str, verb: str, question: str) -> tuple[int, bytes]:
        """Return exit status and output of a helper, both bounded. Raises AccessDenied."""
        program = f"docker-credential-{helper}"
        deadline = time.monotonic() + self.helper_timeout_s
        try:
            process = subprocess.Popen(
                [program, verb],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(self.environ),
            )
        except OSError as error:
            reason = "is not on PATH" if isinstance(error, FileNotFoundError) else error.strerror
            raise AccessDenied(f"the credential helper {program} {reason}") from error
        with process:
            try:
                answer = _converse(process, question.encode(), deadline)
                if len(answer) > _MAX_ANSWER:
                    raise InvalidAnswer(f"the answer of {program} is over {_MAX_ANSWER} bytes")
                status = process.wait(max(0.0, deadline - time.monotonic()))
            except (TimeoutError, subprocess.TimeoutExpired) as error:
                raise AccessDenied(
                    f"the credential helper {program} gave no answer to {verb!r} "
                    f"in {self.helper_timeout_s:g} s"
                ) from error
            finally:
                process.kill()
        return status, answer

    def _read(self) -> dict[str, Any]:
        """Return the whole file, empty where there is none. Raises InvalidInput."""
        try:
            with self.path.open("rb") as file:
                raw = file.read(_MAX_FILE + 1)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise self._wrong(f"it cannot be read: {error.strerror}") from error
        if len(raw) > _MAX_FILE:
            raise self._wrong(f"it is larger than {_MAX_FILE} bytes")
        try:
            config = json.loads(raw.decode("utf-8")) if raw.strip() else {}
        except (ValueError, RecursionError) as error:
            raise self._wrong("it is not valid JSON") from error
        if not isinstance(config, dict):
            raise self._wrong("it is not a JSON object")
        _table(config, "auths", self.path)
        return config

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """Give the file's content to be changed, alone; it is replaced as a whole, mode 0600."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = Path(os.path.realpath(self.path))  # a link stays one, as with Docker
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            lock(directory, Kind.EXCLUSIVE, timeout_s=_LOCK_TIMEOUT_S, what=str(self.path))
            config = self._read()
            yield config
            _replace(target, json.dumps(config, indent="\t").encode() + b"\n")
            os.fsync(directory)
        finally:
            os.close(directory)

    def _wrong(self, reason: str) -> InvalidInput:
        return InvalidInput(f"{self.path} is of no use: {reason}")


def _keys(registry: str) -> tuple[str, ...]:
    """Return the names that Docker files a registry under, the one it writes first."""
    if registry == DOCKER_HUB:
        return (_HUB_KEY, DOCKER_HUB, "index.docker.io")
    return (registry,)


def _host(key: str) -> str:
    """Return the registry that a key of ``auths`` means; old ones are URLs."""
    host = key.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return DOCKER_HUB if host in ("index.docker.io", "registry-1.docker.io") else host


def _table(config: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    table = {} if config.get(name) is None else config[name]
    if not isinstance(table, dict):
        raise InvalidInput(f"{path} is of no use: its {name!r} is not an object")
    return table


def _converse(process: subprocess.Popen[bytes], question: bytes, deadline: float) -> bytes:
    """Ask, and return at most a little more than is allowed of the answer. Raises TimeoutError."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):  # it may know its answer without the question
        process.stdin.write(question)
        process.stdin.close()
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    answer = bytearray()
    while len(answer) <= _MAX_ANSWER:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        chunk = os.read(process.stdout.fileno(), 2**16)
        if not chunk:
            break
        answer += chunk
    return bytes(answer)


def _failed(helper: str, verb: str, answer: bytes) -> AccessDenied:
    words = " ".join(answer.decode(errors="replace").split())[:120]
    said = f": {words}" if words.isprintable() and words else ""
    return AccessDenied(f"the credential helper docker-credential-{helper} failed to {verb}{said}")


def _replace(target: Path, content: bytes) -> None:
    fd, name = tempfile.mkstemp(prefix=".config.json-", dir=target.parent)  # mode 0600
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).rename(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
