# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/grpc_service.proto`` from the stubs that tritonclient carries: ``python docs/make_proto.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from tritonclient.grpc import service_pb2

PAGE = Path(__file__).with_name("grpc_service.proto")
METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
INTRODUCTION = """\
// SPDX-License-Identifier: Apache-2.0
// The part of the KServe v2 inference protocol that this service answers: names and numbers of KServe's
// grpc_predict_v2.proto and of Triton's grpc_service.proto, so that stubs made of either work. By docs/make_proto.py.
"""
_SCALARS = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in (
        *("TYPE_BOOL", "TYPE_BYTES", "TYPE_DOUBLE", "TYPE_FLOAT", "TYPE_INT32", "TYPE_INT64"),
        *("TYPE_STRING", "TYPE_UINT32", "TYPE_UINT64"),
    )
}


def page() -> str:
    """The whole file."""
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    lines = [
        INTRODUCTION,
        'syntax = "proto3";',
        "",
        f"package {service_pb2.DESCRIPTOR.package};",
        "",
        f"service {service.name} {{",
    ]
    wanted: list[Any] = []
    for name in METHODS:
        method = service.methods_by_name[name]
        lines.append(f"  rpc {name}({method.input_type.name}) returns ({method.output_type.name}) {{}}")
        wanted += [method.input_type, method.output_type]
    lines.append("}")
    written: set[str] = set()
    while wanted:
        message = wanted.pop(0)
        if message.full_name not in written:
            written.add(message.full_name)
            lines += ["", *_message(message)]
            wanted += [field.message_type for field in _fields(message) if _is_outside(message, field)]
    return "\n".join(lines) + "\n"


def _message(message: Any, indent: str = "") -> list[str]:
    inner = indent + "  "
    lines = [f"{indent}message {message.name} {{"]
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            lines += [*_message(nested, inner), ""]
    for oneof in message.oneofs:
        lines += [
            f"{inner}oneof {oneof.name} {{",
            *(f"{inner}  {_field(field)}" for field in oneof.fields),
            f"{inner}}}",
        ]
    lines += [inner + _field(field) for field in message.fields if field.containing_oneof is None]
    return [*lines, indent + "}"]


def _field(field: Any) -> str:
    if _is_map(field):
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        kind = f"map<{_type(key)}, {_type(value)}>"
    else:
        kind = ("repeated " if field.is_repeated else "") + _type(field)
    return f"{kind} {field.name} = {field.number};"


def _type(field: Any) -> str:
    return field.message_type.name if field.message_type is not None else _SCALARS[field.type]


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _fields(message: Any) -> list[Any]:
    """Fields of a message and of those inside it; of a map, its values."""
    own = [field.message_type.fields_by_name["value"] if _is_map(field) else field for field in message.fields]
    return own + [field for nested in message.nested_types for field in nested.fields]


def _is_outside(message: Any, field: Any) -> bool:
    return field.message_type is not None and field.message_type.containing_type is None


if __name__ == "__main__":
    PAGE.write_text(page())
