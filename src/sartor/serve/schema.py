"""OpenAPI parts of the routes whose bodies are read as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sartor.serve.decode import IMAGE_TYPES, JSON_TYPE, NPY_TYPE

__all__ = ["ANSWER", "CONFIG_BODY", "RELOAD_BODY", "errors", "headers", "tensor_body"]

_NUMBER = {"type": "number"}
_ERROR = {
    "type": "object",
    "required": ["detail"],
    "properties": {"detail": {"type": "string"}, "reason": {"type": "string"}},
}
ANSWER: dict[str, Any] = {
    "description": "labels (or, for `Accept: application/x-npy`, the outputs as npy)",
    "content": {
        JSON_TYPE: {
            "schema": {
                "type": "object",
                "required": ["labels", "point", "accuracy", "queue_ms", "run_ms", "batch"],
                "properties": {
                    "labels": {"type": "array", "items": {"type": "integer"}},
                    "classes": {"type": "array", "items": {"type": "string"}},
                    "outputs": {"type": "array"},
                    "point": {"type": "string"},
                    **dict.fromkeys(("accuracy", "queue_ms", "run_ms"), _NUMBER),
                    "batch": {"type": "integer"},
                },
            }
        },
        NPY_TYPE: {"schema": {"type": "string", "format": "binary"}},
    },
}


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Responses in which ``detail`` says what was given, what is allowed and what to do."""
    content = {JSON_TYPE: {"schema": _ERROR}}
    return {code: {"description": "an explanation", "content": content} for code in codes}


def headers() -> list[dict[str, Any]]:
    """The two headers by which a request states what it needs."""
    deadline = {"type": "number", "exclusiveMinimum": 0, "maximum": 600_000}
    accuracy = {"type": "number", "minimum": 0, "maximum": 1}
    return [
        {
            "name": "X-Deadline-Ms",
            "in": "header",
            "description": "milliseconds from arrival; default: the service's objective",
            "schema": deadline,
        },
        {
            "name": "X-Min-Accuracy",
            "in": "header",
            "description": "least accuracy of a point that may answer",
            "schema": accuracy,
        },
    ]


def tensor_body(shape: Sequence[int], *, pictures: bool, max_images: int) -> dict[str, Any]:
    """Body of a prediction: JSON or npy; JPEG or PNG for single pictures."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    tensor: dict[str, Any] = {**_NUMBER, "minimum": -3e38, "maximum": 3e38}  # float32
    for size in reversed(shape):
        tensor = {"type": "array", "items": tensor, "minItems": size, "maxItems": size}
    if not pictures:
        tensor = {"type": "array", "items": tensor, "minItems": 1, "maxItems": max_images}
    fields = {"type": "object", "required": ["inputs"], "properties": {"inputs": tensor}}
    schema = {"schema": {**fields, "additionalProperties": False}}
    content: dict[str, Any] = {JSON_TYPE: schema, NPY_TYPE: binary}
    if pictures:
        content |= dict.fromkeys(IMAGE_TYPES, binary)
    return {"required": True, "content": content}


def _object(name: str, kind: list[str] | str) -> dict[str, Any]:
    fields = {"type": "object", "required": [name], "properties": {name: {"type": kind}}}
    return {
        "required": True,
        "content": {JSON_TYPE: {"schema": {**fields, "additionalProperties": False}}},
    }


CONFIG_BODY = _object("pin", ["string", "null"])
RELOAD_BODY = _object("run", "string")
