"""Completes the OpenAPI document of FastAPI with the real errors, the meaning of fields, and examples."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from types import ModuleType
from typing import Any

from venvd_contract.errors import BY_CODE, NotFound
from venvd_http.problems import PROBLEM

Document = dict[str, Any]

_PROBLEM_FIELDS = {
    "type": "Always `about:blank`: `code` names the error.",
    "title": "The code in words.",
    "status": "The HTTP status.",
    "detail": "What is wrong, and how to correct it.",
    "code": "The error; it stays the same from version to version.",
    "errorType": "The class of an exception that user code raised.",
    "traceback": "The traceback of an exception that user code raised.",
    "exception": "Further fields of that exception: `bases`, `args`, `errno`, `notes`, `cause` and more.",
    "output": "The output of an `exec` before it ended: `stdout`, `stderr` and `truncated`.",
    "stateLost": "Whether the session lost its objects, because its process ended.",
}
_CLAUSE = re.compile(r"(.+?)[.:;,](\s|$)", re.DOTALL)
_REFERENCE = "#/components/schemas/"


def complete(document: Document, modules: Iterable[ModuleType], examples: Mapping[str, Any]) -> Document:
    """Complete a document in place, and return it.

    Args:
        document: the document of FastAPI.
        modules: the modules of its dataclasses; the strings below their fields become descriptions.
        examples: an example of each model, by its name.
    """
    models = document["components"]["schemas"]
    _describe_fields(models, modules)
    _describe_problem(models["Problem"])
    for name, example in examples.items():
        models[name]["examples"] = [example]
    for operation in list_operations(document):
        for parameter in operation.get("parameters", ()):
            _forbid_null(parameter["schema"])
        for answer in operation["responses"].values():
            _correct_type(answer.get("content", {}))
        _add_examples(operation, models)
    return document


def summarize(document: Document) -> None:
    """Make the first clause of each description the summary, in place of the function's name."""
    for operation in list_operations(document):
        summary = _CLAUSE.match(operation["description"])
        operation["summary"] = operation["description"] if summary is None else summary[1].replace("\n", " ")


def close_bodies(document: Document) -> None:
    """Declare in a document that the objects of request bodies have no further fields."""
    for operation in list_operations(document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            _close(content["schema"], document["components"]["schemas"])


def _close(part: Document, models: Mapping[str, Document]) -> None:
    for each in (part, *part.get("anyOf", ())):
        model = models.get(each.get("$ref", "").removeprefix(_REFERENCE))
        if model is not None:
            model["additionalProperties"] = False
            for field in model["properties"].values():
                _close(field, models)


def list_operations(document: Document) -> Iterator[Document]:
    """Yield the operations of a document."""
    for path in document["paths"].values():
        yield from path.values()


def make_example(schema: Document, models: Mapping[str, Document]) -> Any:
    """Return an example of a schema, made from the examples of its models; None if they have none."""
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        return make_example(models[schema["$ref"].removeprefix(_REFERENCE)], models)
    if schema.get("type") == "array":
        item = make_example(schema["items"], models)
        return [] if item is None else [item]
    if schema.get("type") == "object" and "properties" in schema:
        parts = {name: make_example(part, models) for name, part in schema["properties"].items()}
        return {name: part for name, part in parts.items() if part is not None}
    return next((example for part in schema.get("anyOf", ()) if (example := make_example(part, models))), None)


def _add_examples(operation: Document, models: Mapping[str, Document]) -> None:
    """Give each body of JSON its example, except those of errors."""
    bodies = [operation.get("requestBody", {})]
    bodies += [answer for status, answer in operation["responses"].items() if status != "default"]
    for body in bodies:
        content = body.get("content", {}).get("application/json")
        if content is not None and "example" not in content:
            example = make_example(content["schema"], models)
            if example is not None:
                content["example"] = example


def _forbid_null(schema: Document) -> None:
    """Remove null from the types of a parameter: it may be absent, but it cannot be null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        del schema["anyOf"]
        schema.update(kinds[0])


def _correct_type(content: Document) -> None:
    """Declare the content type that problem details really have."""
    declared = content.get("application/json", {}).get("schema", {})
    if declared.get("$ref") == f"{_REFERENCE}Problem":
        del content["application/json"]
        content[PROBLEM.decode()] = {"schema": declared}


def _describe_problem(problem: Document) -> None:
    for name, text in _PROBLEM_FIELDS.items():
        problem["properties"][name]["description"] = text
    problem["properties"]["code"]["enum"] = sorted(BY_CODE)
    problem["examples"] = [NotFound("no such session: report").problem()]


def _describe_fields(models: Mapping[str, Document], modules: Iterable[ModuleType]) -> None:
    for module in modules:
        for model in vars(module).values():
            if isinstance(model, type) and is_dataclass(model) and model.__name__ in models:
                properties = models[model.__name__].get("properties", {})
                for kind in model.__mro__[:-1]:
                    for field, text in read_field_texts(kind).items():
                        if field in properties:
                            properties[field].setdefault("description", text)


def read_field_texts(model: type) -> dict[str, str]:
    """Return the strings below the fields of a class of a module, by field."""
    module = inspect.getmodule(model)
    return {} if module is None else _read_module_texts(module).get(model.__name__, {})


@functools.cache
def _read_module_texts(module: ModuleType) -> dict[str, dict[str, str]]:
    """Return the strings below the fields of each class, by class and field."""
    texts: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef):
            fields = texts[node.name] = {}
            for field, after in zip(node.body, node.body[1:], strict=False):
                text = _read_text(after)
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and text is not None:
                    fields[field.target.id] = text
    return texts


def _read_text(node: ast.stmt) -> str | None:
    """Return the text of a statement that is only a string, else None."""
    value = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else None
    return inspect.cleandoc(value) if isinstance(value, str) else None
