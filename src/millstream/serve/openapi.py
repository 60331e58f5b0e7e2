"""The OpenAPI description of the service, made from the views themselves: every field with its type and an example."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from millstream.buffer.codec.values import expected
from millstream.definitions.schema import digits_of, element_of, fields_of, is_map
from millstream.serve.request import RequestSchema

if TYPE_CHECKING:
    from millstream.definitions import EventStream

_TYPES: dict[str, dict[str, Any]] = {
    "int64": {"type": ["integer", "null"], "format": "int64"},
    "float64": {"type": ["number", "null"], "format": "double"},
    "float32": {"type": ["number", "null"], "format": "float"},
    "string": {"type": ["string", "null"]},
    "bool": {"type": ["boolean", "null"]},
    "timestamp": {"type": ["string", "integer", "null"], "description": "ISO-8601, or microseconds since 1970 UTC"},
    "date": {"type": ["string", "null"], "format": "date"},
    "uuid": {"type": ["string", "null"], "format": "uuid"},
    "bytes": {"type": ["string", "null"], "contentEncoding": "base64"},
}
_AT = {
    "type": ["string", "integer"],
    "description": "as of when; now unless given. ISO-8601, or microseconds since 1970",
}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {name: {} for name in ("message", "field", "given", "expected", "hint")},
        },
        "request_id": {"type": "string"},
    },
}
_GROUPS = {
    "type": "object",
    "description": "per feature group: the version read, and how old it is",
    "additionalProperties": {
        "type": "object",
        "properties": {
            "version": {"type": "string"},
            "age_ms": {"type": ["number", "null"], "description": "since the newest arrival that is applied"},
            "applied_ms": {"type": ["number", "null"], "description": "since the last write"},
            "fallback": {"type": "string", "description": "why its features are nulls and defaults, if they are"},
        },
    },
}
_SCORE: dict[str, Any] = {
    "request_id": {"type": "string"},
    "at": {"type": "string", "format": "date-time"},
    "score": {"type": "number"},
    "degraded": {"type": "boolean"},
    "groups": _GROUPS,
}


def openapi(
    title: str,
    models: Mapping[str, RequestSchema],
    views: Mapping[str, RequestSchema],
    columns: Mapping[str, Mapping[str, str]],
    streams: Iterable[EventStream],
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a service.

    Args:
        title: what the service is called.
        models: by model, what the rows of its requests hold.
        views: by view, what the rows of its requests hold.
        columns: by view, the types of its features by name.
        streams: the streams that events can be sent to.
    """
    paths: dict[str, Any] = {}
    for name, schema in models.items():
        paths[f"/v1/models/{name}/score"] = {"post": _score(name, schema)}
        paths[f"/v1/models/{name}/labels"] = {"post": _take(f"Send labels of model {name}.", None)}
    for name, schema in views.items():
        paths[f"/v1/views/{name}/features"] = {"get": _features(name, schema, columns[name])}
    for stream in streams:
        summary = f"Send events of stream {stream.name}."
        paths[f"/v1/streams/{stream.name}/events"] = {"post": _take(summary, _object(stream.schema, [stream.time]))}
    for path, summary in (
        ("/livez", "The process answers."),
        ("/readyz", "Models are loaded and the store answers."),
        ("/metrics", "Counters and latencies, for Prometheus."),
        ("/status", "Layers, rates, lags, ages, models."),
    ):
        paths[path] = {"get": {"summary": summary, "responses": {"200": {"description": "as said"}}}}
    about = {"title": title, "version": "1", "description": "Scores and features in real time, by Millstream."}
    return {"openapi": "3.1.0", "info": about, "paths": paths, "components": {"schemas": {"Error": _ERROR}}}


def _object(types: Mapping[str, str], required: Iterable[str]) -> dict[str, Any]:
    properties = {name: _type(kind) for name, kind in types.items()}
    return {"type": "object", "properties": properties, "required": sorted(required)}


def _type(kind: str) -> dict[str, Any]:
    element = element_of(kind)
    if fields := fields_of(kind):
        return {"type": "object", "properties": {name: _type(of) for name, of in fields.items()}}
    if is_map(kind):
        *_, value = (fields_of(element or "") or {}).values()
        return {"type": ["object", "null"], "additionalProperties": _type(value)}
    if digits_of(kind):
        return {"type": ["string", "number", "null"], "description": expected(kind)}
    return dict(_TYPES[kind]) if element is None else {"type": ["array", "null"], "items": _type(element)}


def _row(schema: RequestSchema) -> dict[str, Any]:
    row = _object(schema.types, [*schema.keys, *schema.fields])
    row["properties"]["at"] = _AT
    row["example"] = schema.example()
    return row


def _score(model: str, schema: RequestSchema) -> dict[str, Any]:
    row = _row(schema)
    many = {"type": "object", "properties": {"rows": {"type": "array", "items": row}}, "required": ["rows"]}
    about = {"model": {"type": "string"}, "version": {"type": "integer"}}
    one_answer = {"type": "object", "properties": about | _SCORE}
    rows_answer = {"type": "array", "items": {"type": "object", "properties": _SCORE}}
    many_answer = {"type": "object", "properties": {"request_id": {"type": "string"}, **about, "rows": rows_answer}}
    return {
        "summary": f"Score one row, or many, with model {model}.",
        "requestBody": _body({"anyOf": [row, many]}),
        "responses": _responses("200", {"anyOf": [one_answer, many_answer]}),
    }


def _features(view: str, schema: RequestSchema, columns: Mapping[str, str]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "query", "required": name in schema.keys, "schema": _type(kind)}
        for name, kind in schema.types.items()
    ]
    parameters.append({"name": "at", "in": "query", "required": False, "schema": _AT})
    answer = {
        "features": _object(columns, columns),
        **{name: _SCORE[name] for name in ("request_id", "at", "degraded", "groups")},
    }
    return {
        "summary": f"Read the features of view {view}.",
        "parameters": parameters,
        "responses": _responses("200", {"type": "object", "properties": answer}),
    }


def _take(summary: str, event: dict[str, Any] | None) -> dict[str, Any]:
    item = event or {"type": "object"}
    body = _body({"anyOf": [item, {"type": "array", "items": item}]})
    body["content"]["application/x-ndjson"] = {"schema": {"type": "string"}}
    places = {
        "type": "array",
        "items": {"type": "object", "properties": {n: {} for n in ("partition", "position", "count")}},
    }
    answer = {"accepted": {"type": "integer"}, "stream": {"type": "string"}, "positions": places}
    return {
        "summary": summary,
        "requestBody": body,
        "responses": _responses("202", {"type": "object", "properties": answer}),
    }


def _body(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _responses(status: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    wrong = {"description": "what was wrong", **_body({"$ref": "#/components/schemas/Error"})}
    wrong.pop("required")
    return {
        status: {"description": "done", "content": {"application/json": {"schema": schema}}},
        "4XX": wrong,
        "5XX": wrong,
    }
