"""Compares real answers with the types that the documents have of them."""

from typing import Any

import msgspec


def check_documented(message: Any, *types: type[msgspec.Struct]) -> None:
    """Check that a message, decoded from JSON, has one of these types, and no field that the type lacks."""
    faults = []
    for type_ in types:
        try:
            known = msgspec.to_builtins(msgspec.convert(message, type_))
        except msgspec.ValidationError as exc:
            faults.append(f"{type_.__name__}: {exc}")
            continue
        assert known == message, f"{type_.__name__} lacks fields of {message}"
        return
    raise AssertionError(f"{faults} in {message}")
