"""What is settled once: the config file, and the environment variables that override it.

Files are TOML, read when they are first needed; ``docs/configuration.md`` lists the keys. What
is not understood is refused, never passed over: a misspelt key must not leave a door open.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import CellblockError, InvalidInput
from .limits import Limits, parse_seconds
from .oci.reference import parse_registry
from .request import NETWORKS

SYSTEM_FILE = Path("/etc/cellblock/config.toml")
_MAX_FILE = 2**20
_COMPONENT = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
_PREFIX = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")


@dataclass(frozen=True)
class Registries:
    """How registries are reached, by their names as references have them (``docker.io``).

    ``mirrors`` are asked before the registry itself, in order, each ``host[:port][/prefix]``.
    ``plain_http`` and ``unverified_tls`` name those that may be talked to without protection.
    ``token_servers`` are the hosts, beyond the registry itself, that may get its credentials.
    """

    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    plain_http: frozenset[str] = frozenset()
    unverified_tls: frozenset[str] = frozenset()
    token_servers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunDefaults:
    """What ``run`` and cells get where their flags say nothing; the Python API ignores it."""

    network: str = "none"
    limits: Limits = field(default_factory=Limits)
    timeout_s: float | None = None


@dataclass(frozen=True)
class KernelDefaults:
    """What kernels of foreign kernelspecs get, which have no flags of cellblock's.

    ``volumes`` as for ``run -v``, ``env`` as for ``run -e``.
    """

    volumes: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """All settings; ``home`` is where the store is, None for the user's usual place.

    ``single_id`` has a new store's containers have one id, whatever ids their user may use.
    """

    registries: Registries = field(default_factory=Registries)
    run: RunDefaults = field(default_factory=RunDefaults)
    kernel: KernelDefaults = field(default_factory=KernelDefaults)
    home: Path | None = None
    single_id: bool = False

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Return the settings of the files there are, overridden by ``environ`` (the process's).

        Raises InvalidInput, in one line that names the file or variable and the key.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, object] = {}
        for path in config_files(environ):
            values |= _read(path, required="CELLBLOCK_CONFIG" in environ)
        for name, key in _KEYS.items():
            text = environ.get(key.variable)
            if text or (text is not None and key.from_text in _OF_MANY):
                values[name] = _understood(key.from_text, text, key.variable)
        return _settings(values)


def config_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the files to be read, the last of which has the last word.

    ``$CELLBLOCK_CONFIG`` names one instead of all others. Else the user's own, and for root the
    system's before it.
    """
    if named := environ.get("CELLBLOCK_CONFIG"):
        return (Path(named),)
    base = environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    directory = Path(base) if base.startswith("/") else Path(environ.get("HOME") or "/") / ".config"
    own = directory / "cellblock" / "config.toml"
    return (SYSTEM_FILE, own) if os.geteuid() == 0 else (own,)


@dataclass(frozen=True)
class _Key:
    """One key: the variable that overrides it, and how each of the two is read."""

    variable: str
    from_toml: Callable[[object], object]
    from_text: Callable[[str], object]


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInput("wants a text in quotes")
    return value


def _home(value: object) -> Path:
    path = Path(_text(value)).expanduser()
    if not path.is_absolute():
        raise InvalidInput("wants an absolute path")
    return path


def _ids(value: object) -> bool:
    if value not in ("single", "subordinate"):
        raise InvalidInput('wants "single", or "subordinate" where the user has such ids')
    return value == "single"


def _network(value: object) -> str:
    name = _text(value)
    if name not in NETWORKS:
        raise InvalidInput(f"wants one of {', '.join(NETWORKS)}")
    return name


def _memory(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidInput('wants a size, as "512m"')
    return Limits(memory=value).memory_bytes


def _cpus(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput("wants a number")
    return Limits(cpus=value).cpus


def _pids(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput("wants a whole number")
    return Limits(pids=value).pids


def _mode(value: object) -> str | None:
    return Limits(mode=_text(value)).mode


def _timeout(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidInput('wants a time, as "2m"')
    return parse_seconds(value)


def _number(kind: type[int] | type[float], check: Callable[[object], object], text: str) -> object:
    try:
        number = kind(text)
    except ValueError:
        raise InvalidInput("wants a number") from None
    return check(number)


def _names(value: object) -> frozenset[str]:
    if not isinstance(value, list):
        raise InvalidInput('wants a list of registries, as ["registry.lan:5000"]')
    return frozenset(parse_registry(_text(each)) for each in value)


def _places(value: object) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise InvalidInput('wants a table, as { "docker.io" = ["mirror.lan:5000"] }')
    found = {}
    for name, places in value.items():
        if not isinstance(places, list):
            raise InvalidInput(f'wants a list for {name!r}, as ["mirror.lan:5000"]')
        found[parse_registry(name)] = tuple(_place(_text(place)) for place in places)
    return found


def _place(text: str) -> str:
    """Return ``host[:port][/prefix]``, checked; a scheme is refused, the other keys say that."""
    host, slash, prefix = text.rstrip("/").partition("/")
    if "://" in text:
        raise InvalidInput(
            f"wants host:port and not an address, as {text!r} is; see plain-http for http"
        )
    if slash and not _PREFIX.fullmatch(prefix):
        raise InvalidInput(f"has a path that no registry serves: {text!r}")
    return parse_registry(host) + slash + prefix


def _words(text: str) -> list[object]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise InvalidInput("wants a list of texts in quotes")
    return tuple(_text(each) for each in value)


def _texts_in(text: str) -> tuple[str, ...]:
    return _texts(_words(text))


def _names_in(text: str) -> frozenset[str]:
    return _names(_words(text))


def _places_in(text: str) -> dict[str, tuple[str, ...]]:
    table: dict[str, list[str]] = {}
    for word in _words(text):
        name, equals, place = str(word).partition("=")
        if not equals:
            raise InvalidInput(f"wants REGISTRY=HOST, separated by commas, and not {word!r}")
        table.setdefault(name.strip(), []).append(place.strip())
    return _places(table)


# An empty variable leaves a value as the files have it, but makes a list empty.
_OF_MANY = (_names_in, _places_in, _texts_in)
_KEYS = {
    "store.home": _Key("CELLBLOCK_HOME", _home, Path),
    "store.ids": _Key("CELLBLOCK_STORE_IDS", _ids, _ids),
    "run.network": _Key("CELLBLOCK_RUN_NETWORK", _network, _network),
    "run.memory": _Key("CELLBLOCK_RUN_MEMORY", _memory, _memory),
    "run.cpus": _Key("CELLBLOCK_RUN_CPUS", _cpus, lambda text: _number(float, _cpus, text)),
    "run.pids-limit": _Key(
        "CELLBLOCK_RUN_PIDS_LIMIT", _pids, lambda text: _number(int, _pids, text)
    ),
    "run.limits": _Key("CELLBLOCK_RUN_LIMITS", _mode, _mode),
    "run.timeout": _Key("CELLBLOCK_RUN_TIMEOUT", _timeout, _timeout),
    "kernel.volumes": _Key("CELLBLOCK_KERNEL_VOLUMES", _texts, _texts_in),
    "kernel.env": _Key("CELLBLOCK_KERNEL_ENV", _texts, _texts_in),
    "registries.mirrors": _Key("CELLBLOCK_REGISTRIES_MIRRORS", _places, _places_in),
    "registries.plain-http": _Key("CELLBLOCK_REGISTRIES_PLAIN_HTTP", _names, _names_in),
    "registries.unverified-tls": _Key("CELLBLOCK_REGISTRIES_UNVERIFIED_TLS", _names, _names_in),
    "registries.token-servers": _Key("CELLBLOCK_REGISTRIES_TOKEN_SERVERS", _places, _places_in),
}
_TABLES = sorted({name.partition(".")[0] for name in _KEYS})


def _read(path: Path, *, required: bool) -> dict[str, object]:
    """Return the values of one file by their dotted names; none if it is not there."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE + 1)
    except FileNotFoundError:
        if required:
            raise InvalidInput(f"{path}, which CELLBLOCK_CONFIG names, does not exist") from None
        return {}
    except NotADirectoryError:
        return {}
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    if len(raw) > _MAX_FILE:
        raise InvalidInput(f"{path} is larger than the {_MAX_FILE} bytes a config may have")
    import tomllib  # noqa: PLC0415 - only where there is a file

    try:
        document = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not valid TOML: {' '.join(str(error).split())}") from error
    values: dict[str, object] = {}
    for table, keys in document.items():
        if table not in _TABLES:
            raise InvalidInput(f"{path}: unknown key {table!r}{_meant(table, _TABLES)}")
        if not isinstance(keys, dict):
            raise InvalidInput(f"{path}: {table} wants a table: write [{table}]")
        for name, value in keys.items():
            dotted = f"{table}.{name}"
            if dotted not in _KEYS:
                raise InvalidInput(f"{path}: unknown key {dotted!r}{_meant(dotted, list(_KEYS))}")
            values[dotted] = _understood(_KEYS[dotted].from_toml, value, f"{path}: {dotted}")
    return values


def _understood(read: Callable[..., object], value: object, where: str) -> object:
    try:
        return read(value)
    except CellblockError as error:
        raise InvalidInput(f"{where} {error}") from error


def _meant(word: str, known: list[str]) -> str:
    import difflib  # noqa: PLC0415 - only for mistakes

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _settings(values: Mapping[str, Any]) -> Settings:
    """Make settings of values that were checked one by one."""
    return Settings(
        registries=Registries(
            mirrors=values.get("registries.mirrors", {}),
            plain_http=values.get("registries.plain-http", frozenset()),
            unverified_tls=values.get("registries.unverified-tls", frozenset()),
            token_servers=values.get("registries.token-servers", {}),
        ),
        run=RunDefaults(
            network=values.get("run.network", "none"),
            limits=Limits(
                memory=values.get("run.memory"),
                cpus=values.get("run.cpus"),
                pids=values.get("run.pids-limit"),
                mode=values.get("run.limits"),
            ),
            timeout_s=values.get("run.timeout"),
        ),
        kernel=KernelDefaults(
            volumes=values.get("kernel.volumes", ()), env=values.get("kernel.env", ())
        ),
        home=values.get("store.home"),
        single_id=values.get("store.ids", False),
    )
