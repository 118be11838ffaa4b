"""Message classes and the method table, from the compiled description beside this file.

The descriptors live in a pool of their own: another package in the process may bring its own runtime.v1 into
protobuf's default pool, and two owners of one symbol are an error there. Nothing is loaded before first use.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from cri_shim.errors import UnknownMessageError

if TYPE_CHECKING:

    class RuntimeMessage(Message):
        """A message whose fields are known at run time only: any attribute type-checks."""

        def __init__(self, **fields: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

else:
    RuntimeMessage = Message

PACKAGE = "runtime.v1"
COMPILED = "runtime_v1.binpb"
CONTAINERD = "containerd.binpb"


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC the schema knows; `path` is what stands in a request's :path header."""

    path: str
    service: str
    name: str
    request: str
    response: str
    client_streaming: bool
    server_streaming: bool

    @property
    def unary(self) -> bool:
        """One request message and one response message."""
        return not (self.client_streaming or self.server_streaming)


@functools.cache
def _files(compiled: str = COMPILED) -> tuple[FileDescriptor, ...]:
    described = descriptor_pb2.FileDescriptorSet.FromString(
        resources.files(__package__).joinpath(compiled).read_bytes()
    )
    pool = descriptor_pool.DescriptorPool()
    for file in described.file:
        pool.Add(file)
    return tuple(pool.FindFileByName(file.name) for file in described.file)


@functools.cache
def message(name: str) -> type[RuntimeMessage]:
    """Class of one runtime.v1 message by its short name; raises UnknownMessageError naming the nearest."""
    for file in _files():
        if name in file.message_types_by_name:
            return cast("type[RuntimeMessage]", message_factory.GetMessageClass(file.message_types_by_name[name]))
    raise UnknownMessageError(_unknown("message", name, [n for file in _files() for n in file.message_types_by_name]))


@functools.cache
def native(name: str) -> type[RuntimeMessage]:
    """Class of one message of containerd's own interface by its short name; raises KeyError for an unknown one."""
    (file,) = _files(CONTAINERD)
    return cast("type[RuntimeMessage]", message_factory.GetMessageClass(file.message_types_by_name[name]))


@functools.cache
def enum(name: str) -> Mapping[str, int]:
    """Values of one top-level enum, name -> number; raises UnknownMessageError naming the nearest."""
    for file in _files():
        if name in file.enum_types_by_name:
            values = file.enum_types_by_name[name].values
            return MappingProxyType({value.name: value.number for value in values})
    raise UnknownMessageError(_unknown("enum", name, [n for file in _files() for n in file.enum_types_by_name]))


@functools.cache
def methods() -> Mapping[str, Method]:
    """Every RPC the schema knows, by its path ("/runtime.v1.RuntimeService/Version")."""
    table: dict[str, Method] = {}
    for file in _files():
        for service in file.services_by_name.values():
            for rpc in service.methods:
                path = f"/{service.full_name}/{rpc.name}"
                table[path] = Method(
                    path=path,
                    service=service.full_name,
                    name=rpc.name,
                    request=rpc.input_type.name,
                    response=rpc.output_type.name,
                    client_streaming=rpc.client_streaming,
                    server_streaming=rpc.server_streaming,
                )
    return MappingProxyType(table)


def _unknown(kind: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"the {PACKAGE} schema has no {kind} {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
