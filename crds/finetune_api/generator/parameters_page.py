"""docs/reference/parameters.md: every parameter of the source documents, what it is here, and what shows it."""

import json
import re
from collections.abc import Iterable, Iterator

from finetune_api.generator.structural import Schema
from finetune_api.parameters import DOCUMENTS, Parameter, parameters_of, proof, refusal_of, tests_of
from finetune_api.spec import CONFIG_SECTIONS
from finetune_api.support import REFUSALS
from finetune_api.training_args import SUPPORTED, default_of

NOTE = "<!-- Generated from finetune_api by `make generate`; do not edit. -->\n\n"
HEAD = """# Parameters of the source documents

Every parameter of the five documents that finetune-operator is built from is a key of its own, is translated by
`finetune convert`, or is refused with a reason. For each: its default there (or the value of the document's example),
the key of `spec` that it is here, the module that it acts in, and the tests that show it. `finetune explain KEY` tells
the same of one key. All keys of `spec`: [finetunejob-spec.md](finetunejob-spec.md),
[training-args.md](training-args.md).
"""
ARGUMENTS = """
## training_args: transformers.TrainingArguments

Documents 000, 003 and 004 take them by reference. These act; any other is refused by name, or translated:
[training-args.md](training-args.md).

| key | default | shown by |
|---|---|---|
"""
OWN = """
## Keys that no document has

| key | what it does | shown by |
|---|---|---|
"""
COLUMNS = "| parameter | default there | here | what to know | acts in | shown by |\n|---|---|---|---|---|---|"


def parameters_page(spec: Schema) -> str:
    """The whole page. spec: the schema of a FineTuneJob's spec."""
    documents = "".join(_document(number, title) for number, title in DOCUMENTS.items())
    arguments = "".join(
        f"| {name} | `{json.dumps(default_of(name))}` | {_links(proof.OF_KEY.get(f'training_args.{name}', ()))} |\n"
        for name in SUPPORTED
    )
    own = "".join(
        f"| {key} | {_cell(described.get('description', ''))} | {_links(proof.OF_KEY.get(key, ()))} |\n"
        for key, described in own_keys(spec)
    )
    return NOTE + HEAD + documents + ARGUMENTS + arguments + OWN + own


def own_keys(spec: Schema) -> Iterator[tuple[str, Schema]]:
    """The keys of the config sections that act and that no document's parameter becomes, with their schemas."""
    taken = {key for number in DOCUMENTS for row in parameters_of(number) for key in row.ours}
    refused = {".".join(refusal.path) for refusal in REFUSALS if len(refusal.allowed) < 2}
    for section in CONFIG_SECTIONS:
        if section not in ("method", "training_args", "memory_args"):
            for key, described in _keys(spec["properties"][section], section):
                if key not in taken and key not in refused:
                    yield key, described


def _keys(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}.{name}", inner
        suffix = "[]" if "items" in inner else ""
        yield from _keys(inner.get("items", inner), f"{path}.{name}{suffix}")


def _document(number: str, title: str) -> str:
    rows = list(parameters_of(number))
    lines = [f"\n## Document {number}: {title}\n", COLUMNS, *_lines(row for row in rows if not row.beyond)]
    if beyond := [row for row in rows if row.beyond]:
        lines += ["\nIts system takes these too, though the document does not name them:\n", COLUMNS, *_lines(beyond)]
    return "\n".join(lines) + "\n"


def _lines(rows: Iterable[Parameter]) -> Iterator[str]:
    for row in rows:
        cells = (
            row.name,
            f"`{row.default_text}`" if row.default_text else "",
            "<br>".join(f"`{key}`" for key in row.ours) or "none",
            _words(row),
            "<br>".join(f"`{module}`" for module in row.where),
            _links(tests_of(row)),
        )
        yield "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _words(row: Parameter) -> str:
    """How it is translated; and for a key that this version refuses, its message, unless that is the same."""
    refusals = [found for key in row.ours if (found := refusal_of(key)) and "refused" not in row.how]
    return "; ".join([row.how, *(f"any other value is refused: {text}" for text in refusals)] if row.how else refusals)


def _links(tests: Iterable[str]) -> str:
    return "<br>".join(_link(test) for test in tests)


def _link(test: str) -> str:
    """A test id as a link to its file: the function's name alone is shown."""
    path, _, name = test.partition("::")
    return f"[{name}](../../{path})"


def _cell(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text).replace("|", "\\|")
