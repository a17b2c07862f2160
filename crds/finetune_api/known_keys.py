"""Which keys may stand at a path of spec; for suggestions, and for telling keys of the manifest from union tags."""

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def known_keys(model: type[BaseModel], data: Any, path: Sequence[str | int]) -> dict[str, type[BaseModel] | None]:
    """Keys of the mapping at `path`; members of a union are narrowed by their const fields in `data`."""
    models = [model]
    for step in path:
        data = _step(data, step)
        if isinstance(step, str):
            fields = [field for one in models for key, field in _fields(one).items() if key == step]
            models = [inner for field in fields for inner in _models(field.annotation)]
        models = _matching(models, data) or models
    return {key: None for one in models for key in _fields(one)}


def walk_keys(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key below a model with its dotted path; `[]` stands for the items of a list. Members of a union follow."""
    for key, field in _fields(model).items():
        here = f"{path}.{key}" if path else key
        yield here, field
        for inner in _models(field.annotation):
            yield from walk_keys(inner, f"{here}[]" if _is_list(field.annotation) else here)


def _is_list(annotation: Any) -> bool:
    """Whether a list is in an annotation, at any depth of Annotated and unions."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _is_list(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return any(_is_list(part) for part in typing.get_args(annotation))
    return origin is list


def _step(data: Any, step: str | int) -> Any:
    if isinstance(data, Mapping):
        return data.get(step)
    if isinstance(data, list) and isinstance(step, int) and step < len(data):
        return data[step]
    return None


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Every model in an annotation, inside Annotated, unions and lists."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _models(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType, list):
        return [model for part in typing.get_args(annotation) for model in _models(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _matching(models: list[type[BaseModel]], data: Any) -> list[type[BaseModel]]:
    """Those models whose literal fields allow the values given."""
    if not isinstance(data, Mapping):
        return models
    return [model for model in models if all(_allows(field, data.get(key)) for key, field in _fields(model).items())]


def _allows(field: FieldInfo, value: Any) -> bool:
    if value is None or typing.get_origin(field.annotation) is not typing.Literal:
        return True
    return value in typing.get_args(field.annotation)
