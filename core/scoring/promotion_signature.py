"""The columns of an MLflow model's signature, and a table in their types: the same online and in batch."""

from __future__ import annotations

from typing import Any

import pandas


def type_of(column: Any) -> str:
    """`long`, `double`, `string`...; other names for what newer signatures have besides: arrays, objects, maps."""
    return str(getattr(column.type, "name", column.type))


def conform(frame: Any, columns: list[Any]) -> Any:
    """The frame in the types of a signature as far as nothing is lost; MLflow refuses even 3 for a double.

    What does not fit stays as it is: MLflow then says so, by the name of the column.
    """
    frame = frame.copy()
    for column in columns:
        if column.name not in frame.columns:
            continue
        values, wanted = frame[column.name], type_of(column)
        is_number = pandas.api.types.is_numeric_dtype(values) and not pandas.api.types.is_bool_dtype(values)
        if wanted in ("integer", "long") and is_number and (values % 1 == 0).all():
            kind = "int32" if wanted == "integer" and values.abs().max() < 2**31 else "int64"
            frame[column.name] = values.astype(kind)
        elif wanted in ("float", "double") and (is_number or values.isna().all()):
            frame[column.name] = values.astype("float32" if wanted == "float" else "float64")
        elif wanted == "datetime" and not is_number:
            frame[column.name] = pandas.to_datetime(values, utc=True).dt.tz_localize(None)
    return frame
