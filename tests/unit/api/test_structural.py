"""The structural-schema converter refuses what it does not understand."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from finetune_api.generator.structural import Converter, Rule, StructuralError


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


def convert(model: type[BaseModel], **options: Any) -> dict[str, Any]:
    schema = model.model_json_schema()
    return Converter(schema.get("$defs", {}), **options).convert(schema)


class Nested(Closed):
    """A part."""

    count: Annotated[int, Field(ge=1, le=9)] = Field(3, description="How many.")


class Understood(Closed):
    """All that is understood."""

    text: Annotated[str, Field(max_length=5)]
    ratio: Annotated[float, Field(gt=0, lt=1)]
    choice: Literal["a", "b"] | None = None
    part: Nested = Field(description="The part.")
    parts: Annotated[list[Nested], Field(max_length=2)]
    words: Annotated[dict[str, Annotated[str, Field(max_length=3)]], Field(max_length=4)]
    flag: bool | None = Field(None, description="A flag.")


def test_what_is_understood() -> None:
    converted = convert(Understood, rules={("part",): [Rule("true", "never")]})
    properties = converted["properties"]
    assert converted["required"] == ["text", "ratio", "part", "parts", "words"]
    assert properties["text"] == {"type": "string", "maxLength": 5}
    assert properties["ratio"]["exclusiveMinimum"] is True
    assert properties["ratio"]["maximum"] == 1
    assert properties["choice"] == {"type": "string", "enum": ["a", "b"]}
    assert properties["part"]["description"] == "The part."
    assert properties["part"]["x-kubernetes-validations"] == [{"rule": "true", "message": "never"}]
    assert properties["part"]["properties"]["count"] == {
        "description": "How many. Default: 3.",
        "type": "integer",
        "minimum": 1,
        "maximum": 9,
    }
    assert properties["words"]["additionalProperties"] == {"type": "string", "maxLength": 3}
    assert properties["flag"] == {"description": "A flag.", "type": "boolean", "nullable": True}


class UnboundedText(Closed):
    text: str


class UnboundedList(Closed):
    items: list[Annotated[str, Field(max_length=1)]]


class UnboundedMap(Closed):
    items: dict[str, Annotated[str, Field(max_length=1)]]


class TwoTypes(Closed):
    value: int | Annotated[str, Field(max_length=1)]


class FreeForm(Closed):
    value: dict[str, Any]


class Anything(Closed):
    value: Any


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    value: bool


class Multiple(Closed):
    value: Annotated[int, Field(multiple_of=2)]


class Pair(Closed):
    value: tuple[int, int]


class Braces(Closed):
    value: bool = Field(description="Use {{ .Values.x }}.")


class Untagged(Closed):
    value: Nested | Understood


class Sized(Closed):
    size: Literal["small"]


class Coloured(Closed):
    colour: Literal["red"]


class Ambiguous(Closed):
    """A oneOf without a shared tag, as a callable discriminator could make it."""

    value: Annotated[
        Annotated[Sized, Tag("a")] | Annotated[Coloured, Tag("b")], Discriminator(lambda value: "a" if value else "b")
    ]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (UnboundedText, "maximum length"),
        (UnboundedList, "maximum length"),
        (UnboundedMap, "maximum size"),
        (TwoTypes, "not listed as of two types"),
        (FreeForm, "FREE_FORM"),
        (Anything, "unknown type"),
        (Open, "must be closed"),
        (Multiple, "multipleOf"),
        (Pair, "prefixItems"),
        (Braces, "template"),
        (Untagged, "not listed as of two types"),
        (Ambiguous, "exactly one key"),
    ],
)
def test_what_is_not_understood_is_refused(model: type[BaseModel], said: str) -> None:
    with pytest.raises(StructuralError, match=said):
        convert(model)


class Cat(Closed):
    kind: Literal["cat"] = Field(description="A cat.")
    lives: Annotated[int, Field(ge=0, le=9)]


class Dog(Closed):
    kind: Literal["dog"] = Field(description="A dog.")
    tricks: bool = False


class Home(Closed):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


def test_a_union_becomes_one_closed_object() -> None:
    pet = convert(Home)["properties"]["pet"]
    assert pet["properties"]["kind"] == {"description": "A cat. A dog.", "type": "string", "enum": ["cat", "dog"]}
    assert pet["required"] == ["kind"]
    assert [(rule["rule"], rule["message"]) for rule in pet["x-kubernetes-validations"]] == [
        ("!has(self.lives) || !(self.kind in ['dog'])", "lives belongs to kind cat; remove it or change kind"),
        ("has(self.lives) || !(self.kind in ['cat'])", "lives is required with kind cat"),
        ("!has(self.tricks) || !(self.kind in ['cat'])", "tricks belongs to kind dog; remove it or change kind"),
    ]


def test_rules_for_a_path_that_does_not_exist_are_noticed() -> None:
    schema = Home.model_json_schema()
    converter = Converter(schema["$defs"], rules={("pets",): [Rule("true", "never")]})
    converter.convert(schema)
    assert converter.used_rules == set()
