"""Decoding requests whose bytes nobody has vouched for."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto
from google.protobuf.message import DecodeError, Message

from shardwright.domain import InvalidValueError, Violation
from shardwright_server.errors import UndecodableRequestError

M = TypeVar("M", bound=Message)

MAX_PARTS = 1_200_000
"""Tables, shards and overrides of one request together. Two bytes on the wire become about 100 in
memory: 64 MiB of empty tables would take 3 GiB, and seconds of holding the interpreter lock."""

_COUNTED = object()
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def decode(kind: type[M], data: bytes) -> M:
    """Decodes a message.

    Raises:
        UndecodableRequestError: When the bytes are no message of that type.
        InvalidValueError: When it has more than `MAX_PARTS` parts; it is not decoded then.
    """
    # a part takes two bytes at least: nothing needs to be counted in short messages
    if len(data) > 2 * MAX_PARTS and count_parts(data, kind.DESCRIPTOR, MAX_PARTS) > MAX_PARTS:
        raise InvalidValueError(
            [Violation("", f"the request has more than {MAX_PARTS} tables, shards and overrides")]
        )
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise UndecodableRequestError(
            f"the request is not a {kind.DESCRIPTOR.full_name}: its {len(data)} bytes cannot be "
            "decoded; send a message of shardwright.v1"
        ) from error


def count_parts(data: bytes, descriptor: Any, most: int) -> int:
    """Counts the elements of repeated message fields without decoding them.

    Walks protobuf's wire format, into messages that hold repeated messages themselves. Bytes that
    are no message are counted as far as they can be read; refusing them is the decoder's task.

    Args:
        data: An encoded message.
        descriptor: Its type.
        most: Counting stops beyond this.
    """
    fields = _message_fields(descriptor)
    count = position = 0
    try:
        while position < len(data) and count <= most:
            tag, position = _varint(data, position)
            if tag & 7 == _VARINT:
                _, position = _varint(data, position)
            elif tag & 7 == _FIXED64:
                position += 8
            elif tag & 7 == _FIXED32:
                position += 4
            elif tag & 7 == _LENGTH:
                length, position = _varint(data, position)
                inner = fields.get(tag >> 3)
                if inner is _COUNTED:
                    count += 1
                elif inner is not None:
                    part = data[position : position + length]
                    count += count_parts(part, inner, most - count)
                position += length
    except IndexError:
        pass
    return count


@cache
def _message_fields(descriptor: Any) -> dict[int, Any]:
    """By number: `_COUNTED` for repeated messages, the type of a message that holds some."""
    proto = DescriptorProto()
    descriptor.CopyToProto(proto)
    fields = {}
    for field in proto.field:
        inner = descriptor.fields_by_number[field.number].message_type
        if inner is not None and field.label == FieldDescriptorProto.LABEL_REPEATED:
            fields[field.number] = _COUNTED
        elif inner is not None and _message_fields(inner):
            fields[field.number] = inner
    return fields


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A base-128 number and the position behind it; IndexError where the bytes end first."""
    value = shift = 0
    while data[position] & 0x80:
        value |= (data[position] & 0x7F) << shift
        shift += 7
        position += 1
    return value | data[position] << shift, position + 1
