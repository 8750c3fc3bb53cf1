"""Pages for an HTTP API, made from its OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Document = Mapping[str, Any]
_PREFIX = "#/components/schemas/"


def write_page(title: str, introduction: str, document: Document) -> str:
    """Return a page with every operation of an OpenAPI document, sorted by tag, and the models that they name."""
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[0]
            by_tag.setdefault(tag, []).append("\n".join(_write_operation(method, path, operation, document)))
    sections = [f"## {tag[:1].upper()}{tag[1:]}\n\n" + "\n\n".join(parts) for tag, parts in by_tag.items()]
    models = document["components"]["schemas"]
    described = "\n\n".join(_write_model(name, model) for name, model in sorted(models.items()))
    return f"# {title}\n\n{introduction}\n\n" + "\n\n".join(sections) + f"\n\n## Models\n\n{described}\n"


def _write_operation(method: str, path: str, operation: Document, document: Document) -> Iterator[str]:
    yield f"### {method.upper()} {path}\n"
    yield f"{operation.get('description') or operation['summary']}\n"
    parameters = operation.get("parameters", ())
    if parameters:
        yield "| parameter | in | type | |\n|---|---|---|---|"
        for parameter in parameters:
            needed = "required. " if parameter.get("required") else ""
            text = parameter.get("description", "")
            yield f"| `{parameter['name']}` | {parameter['in']} | {name_type(parameter['schema'])} | {needed}{text} |"
        yield ""
    body = operation.get("requestBody", {}).get("content", {})
    for kind, content in body.items():
        yield f"Request body (`{kind}`): {name_type(content.get('schema', {}))}\n"
        yield from _write_example(content, document)
    for status, answer in operation["responses"].items():
        contents = answer.get("content", {})
        if status == "default" or not str(status).startswith("2"):
            continue
        for kind, content in contents.items():
            yield f"Answer {status} (`{kind}`): {name_type(content.get('schema', {}))}\n"
            yield from _write_example(content, document)


def _write_example(content: Document, document: Document) -> Iterator[str]:
    example = content.get("example")
    if example is None:
        name = content.get("schema", {}).get("$ref", "").removeprefix(_PREFIX)
        examples = document["components"]["schemas"].get(name, {}).get("examples", ())
        example = examples[0] if examples else None
    if example is not None:
        yield f"```json\n{json.dumps(example, indent=2, ensure_ascii=False)}\n```\n"


def _write_model(name: str, model: Document) -> str:
    lines = [f"### {name}\n"]
    if model.get("description"):
        lines.append(model["description"] + "\n")
    fields = model.get("properties", {})
    if fields:
        lines.append("| field | type | |\n|---|---|---|")
        required = set(model.get("required", ()))
        for field, schema in fields.items():
            needed = "required. " if field in required else ""
            text = schema.get("description", "").replace("\n", " ").replace("|", "\\|")
            lines.append(f"| `{field}` | {name_type(schema)} | {needed}{text} |")
    elif "enum" in model:
        lines.append("One of " + ", ".join(f"`{value}`" for value in model["enum"]) + ".")
    return "\n".join(lines)


def name_type(schema: Document) -> str:
    """Return the type of a schema in words, with a link to a model."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_PREFIX)
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(name_type(part) for part in schema[key]))
    kind = schema.get("type", "any value")
    if kind == "array":
        return f"array of {name_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {name_type(schema['additionalProperties'])}"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    return "bytes" if schema.get("format") == "binary" else str(kind)
