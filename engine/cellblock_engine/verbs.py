"""Verbs on the files of images and containers: carried out where their owners are root's.

An ordinary user's are carried out by a process of their own (:mod:`.store.inside`), with another
inventory of the same store; root's where they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from .library import Library
    from .store import Store

_P = ParamSpec("_P")
_T = TypeVar("_T")
_L = TypeVar("_L", bound="Library")
_Pieces = Callable[Concatenate[_L, _P], Iterator[bytes]]


def among_files(verb: Callable[Concatenate[_L, _P], _T]) -> Callable[Concatenate[_L, _P], _T]:
    """Let a verb be carried out there. What it is called with and returns can be pickled."""

    @wraps(verb)
    def carried_out(self: _L, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        inside = self._store.inside
        if inside.is_here:
            return verb(self, *args, **kwargs)
        return cast(_T, inside.run(_carry_out, verb.__name__, args, kwargs))

    return cast(Callable[Concatenate[_L, _P], _T], carried_out)


def pieces_among_files(verb: _Pieces[_L, _P]) -> _Pieces[_L, _P]:
    """Let a verb that yields bytes be carried out there."""

    @wraps(verb)
    def carried_out(self: _L, *args: _P.args, **kwargs: _P.kwargs) -> Iterator[bytes]:
        inside = self._store.inside
        if inside.is_here:
            return verb(self, *args, **kwargs)
        return inside.pieces(_yield_out, verb.__name__, args, kwargs)

    return cast(_Pieces[_L, _P], carried_out)


def _carry_out(
    store: Store, name: str, args: tuple[object, ...], kwargs: dict[str, object]
) -> object:
    from .inventory import Inventory  # noqa: PLC0415 - which imports this

    return getattr(Inventory(store.layout, store=store), name)(*args, **kwargs)


def _yield_out(
    store: Store, name: str, args: tuple[object, ...], kwargs: dict[str, object]
) -> Iterator[bytes]:
    return cast(Iterator[bytes], _carry_out(store, name, args, kwargs))
