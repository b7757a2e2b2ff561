"""Tables as pandas DataFrames that keep their types and are still easy to read.

The only module that imports pandas. A size stays an integer of bytes, a time stays aware; only
the display says ``124MB`` and ``3 hours ago``.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal, get_origin, get_type_hints

import pandas as pd

from cellblock_engine import format_bytes

from .documents import flat
from .tables import Table, View, plain, size, utc_now

_BYTES = "_bytes"
_IDENTIFIERS = ("_id", "diffid")
_MEMORY = "memory"  # written and shown in powers of 1024; sizes are in powers of 1000
_TIME = "datetime64[us, UTC]"
_TYPES: Mapping[object, str] = {
    int: "int64",
    int | None: "Int64",
    bool | None: "boolean",
    float | None: "Float64",
    datetime | None: _TIME,
    datetime: _TIME,
    str: "str",
    str | None: "str",
    tuple[str, ...]: "str",
}


class Listing(pd.DataFrame):
    """A DataFrame that shows sizes, times and long identifiers for people.

    What is derived from it by selection and sorting shows itself in the same way.
    """

    @property
    def _constructor(self) -> type[Listing]:
        return Listing

    def _repr_html_(self) -> str | None:
        return self._shown()._repr_html_()  # type: ignore[operator, no-any-return]

    def __repr__(self) -> str:
        return repr(self._shown())

    def _shown(self) -> pd.DataFrame:
        """Return the words that show the values, as an ordinary DataFrame."""
        view = View(utc_now())
        columns = {
            place: self.iloc[:, place].map(_words(str(name), self.dtypes.iloc[place], view))
            for place, name in enumerate(self.columns)
        }
        return pd.DataFrame(columns, index=self.index).set_axis(self.columns, axis="columns")


def frame(table: Table) -> Listing:
    """Return a table as a DataFrame: a column for each field of its rows, typed by the field."""
    types = get_type_hints(table.row_type)
    return Listing(
        {
            name: pd.Series([_cell(getattr(row, name)) for row in table.rows], dtype=_dtype(kind))
            for name, kind in types.items()
        }
    )


def inspection(documents: Mapping[str, Mapping[str, object]]) -> Listing:
    """Return documents side by side: a row for each dotted name, a column for each document."""
    leaves = {name: flat(content) for name, content in documents.items()}
    rows = dict.fromkeys(key for column in leaves.values() for key in column)
    return Listing(
        {name: [column.get(key) for key in rows] for name, column in leaves.items()},
        index=pd.Index(list(rows), name="property"),
        dtype="object",
    )


def _dtype(kind: object) -> str:
    return "str" if get_origin(kind) is Literal else _TYPES[kind]


def _cell(value: object) -> object:
    return shlex.join(value) if isinstance(value, tuple) else value


def _words(name: str, dtype: object, view: View) -> Callable[[Any], str]:
    """Return what shows the values of a column; a missing one is shown as nothing."""
    integers = pd.api.types.is_integer_dtype(dtype)  # type: ignore[arg-type]

    def words(value: Any) -> str:  # noqa: ANN401 - whatever the column holds
        if pd.api.types.is_scalar(value) and pd.isna(value):
            return ""
        if integers and name.endswith(_BYTES):
            return (format_bytes if name.startswith(_MEMORY) else size)(int(value))
        if isinstance(dtype, pd.DatetimeTZDtype):
            return view.ago(value)
        if isinstance(dtype, pd.StringDtype) and name.endswith(_IDENTIFIERS):
            return view.identifier(value)
        return plain(str(value))

    return words
