"""What is wrong with JSON that does not parse as a message: every place, in a person's words."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

_PARSE_ERRORS = (json_format.Error, ValueError, TypeError, AttributeError)
_LABEL_REPEATED = 3
_WHOLE_NUMBERS = {
    FieldDescriptor.TYPE_INT32: "a whole number of 32 bits",
    FieldDescriptor.TYPE_INT64: "a whole number of 64 bits",
    FieldDescriptor.TYPE_UINT64: "a whole number of 64 bits, not negative",
}
_OTHER_TYPES = {
    FieldDescriptor.TYPE_DOUBLE: "a number",
    FieldDescriptor.TYPE_BOOL: "true or false",
    FieldDescriptor.TYPE_STRING: "a text",
}
_WELL_KNOWN = {
    "google.protobuf.Duration": 'a duration such as "10s"',
    "google.protobuf.Timestamp": 'a time such as "2026-01-31T12:00:00Z"',
}


def find_problems(data: Any, descriptor: Any, path: str = "") -> Iterator[str]:
    """Walks JSON data along a message type and yields what does not fit.

    Args:
        data: Decoded JSON.
        descriptor: Descriptor of the message that it should be, without map fields.
        path: Where `data` stands, such as `tables[3]`; empty at the top.
    """
    if not isinstance(data, dict):
        yield f"{path or 'the file'}: must be an object {{...}}, got {_kind(data)}"
        return
    fields = {name: f for f in descriptor.fields for name in (f.name, f.camelcase_name)}
    for key, value in data.items():
        place = f"{path}.{key}" if path else key
        field = fields.get(key)
        if field is None:
            yield f"{place}: is no field of {descriptor.name}; {_advice(key, descriptor)}"
        elif value is not None:
            yield from _field_problems(value, field, place)


def _field_problems(value: Any, field: FieldDescriptor, place: str) -> Iterator[str]:
    if not _is_repeated(field):
        yield from _value_problems(value, field, place, value)
    elif not isinstance(value, list):
        yield f"{place}: must be a list [...], got {_kind(value)}"
    else:
        for i, item in enumerate(value):
            yield from _value_problems(item, field, f"{place}[{i}]", [item])


def _is_repeated(field: FieldDescriptor) -> bool:
    # `label` is deprecated in new protobuf, `is_repeated` is missing in old
    repeated = getattr(field, "is_repeated", None)
    return bool(getattr(field, "label", None) == _LABEL_REPEATED if repeated is None else repeated)


def _message_of(field: FieldDescriptor) -> Descriptor:
    message = field.containing_type
    assert message is not None, "only extensions have no containing type"
    return message


def _value_problems(value: Any, field: FieldDescriptor, place: str, wrapped: Any) -> Iterator[str]:
    message = field.message_type
    if message is not None and message.full_name not in _WELL_KNOWN:
        yield from find_problems(value, message, place)
        return
    try:
        owner = message_factory.GetMessageClass(_message_of(field))()
        json_format.ParseDict({field.name: wrapped}, owner)
    except _PARSE_ERRORS:
        yield f"{place}: must be {_expected(field)}, got {_shown(value)}"


def _expected(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return "one of " + ", ".join(v.name for v in field.enum_type.values if v.number)
    if field.message_type is not None:
        return _WELL_KNOWN.get(field.message_type.full_name, "an object {...}")
    return (_WHOLE_NUMBERS | _OTHER_TYPES).get(field.type, "another type")


def _advice(key: str, descriptor: Descriptor) -> str:
    names = [field.name for field in descriptor.fields]
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"its fields are {', '.join(names)}"


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else _shown(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
