"""The page of the gRPC services, made from the comments of the `.proto` files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

_SERVICES, _MESSAGES, _ENUMS = 6, 4, 5
_METHODS, _FIELDS, _NESTED = 2, 2, 3
"""Numbers of fields in `descriptor.proto`, which paths of comments are made of."""
Path_ = tuple[int, ...]


def write_page(title: str, introduction: str, sources: Path) -> str:
    """Return a page with the services and messages of all files of the package `venvd.v1` below `sources`."""
    parts = [f"# {title}\n\n{introduction}"]
    for file in _read_descriptors(sources).file:
        if file.package == "venvd.v1":
            comments = {tuple(place.path): _join(place.leading_comments) for place in file.source_code_info.location}
            parts.extend(_write_file(file, comments))
    return "\n\n".join(parts) + "\n"


def _read_descriptors(sources: Path) -> descriptor_pb2.FileDescriptorSet:
    descriptors = descriptor_pb2.FileDescriptorSet()
    names = sorted(str(path.relative_to(sources)) for path in (sources / "venvd").rglob("*.proto"))
    with tempfile.NamedTemporaryFile() as file:
        arguments = ["protoc", f"-I{sources}", "--include_source_info", f"--descriptor_set_out={file.name}", *names]
        if protoc.main(arguments) != 0:
            raise SystemExit(1)
        descriptors.ParseFromString(Path(file.name).read_bytes())
    return descriptors


def _write_file(file: descriptor_pb2.FileDescriptorProto, comments: dict[Path_, str]) -> Iterator[str]:
    for index, service in enumerate(file.service):
        place = (_SERVICES, index)
        yield f"## {file.package}.{service.name}\n\n{comments.get(place, '')}"
        yield "| method | takes | returns | |\n|---|---|---|---|\n" + "\n".join(
            f"| `{method.name}` | {_link(method.input_type, stream=method.client_streaming)} "
            f"| {_link(method.output_type, stream=method.server_streaming)} "
            f"| {comments.get((*place, _METHODS, number), '')} |"
            for number, method in enumerate(service.method)
        )
    for index, message in enumerate(file.message_type):
        yield from _write_message(message, (_MESSAGES, index), message.name, comments)
    for index, enum in enumerate(file.enum_type):
        values = ", ".join(f"`{value.name}`" for value in enum.value)
        yield f"### {enum.name}\n\n{comments.get((_ENUMS, index), '')}\n\n{values}"


def _write_message(
    message: descriptor_pb2.DescriptorProto, place: Path_, name: str, comments: dict[Path_, str]
) -> Iterator[str]:
    if message.options.map_entry:
        return
    rows = [
        f"| `{field.name}` | {_name_type(field)} | {comments.get((*place, _FIELDS, number), '')} |"
        for number, field in enumerate(message.field)
    ]
    table = "| field | type | |\n|---|---|---|\n" + "\n".join(rows) if rows else "No fields."
    yield f"### {name}\n\n{comments.get(place, '')}\n\n{table}"
    for number, nested in enumerate(message.nested_type):
        yield from _write_message(nested, (*place, _NESTED, number), f"{name}.{nested.name}", comments)


def _name_type(field: descriptor_pb2.FieldDescriptorProto) -> str:
    if field.type_name:
        name = _link(field.type_name)
    else:
        name = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return f"repeated {name}" if field.label == field.LABEL_REPEATED else name


def _link(full_name: str, *, stream: bool = False) -> str:
    name = full_name.removeprefix(".venvd.v1.")
    linked = f"`{name.strip('.')}`" if "." in name else f"[{name}](#{name.lower()})"
    return f"stream of {linked}" if stream else linked


def _join(comment: str) -> str:
    return " ".join(comment.split()).replace("|", "\\|")
