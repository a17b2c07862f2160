"""docs/reference/adapters.md: what each adapter type does, and which of its arguments are refused."""

import json
from collections.abc import Iterator

from finetune_api.generator.reference import NOTE
from finetune_api.peft_kwargs import LORA_INITIALISATIONS, OWNED, peft_fields
from finetune_api.peft_types import PEFT_TYPES, PeftType


def adapters_page() -> str:
    """The table of types, then each type's arguments."""
    lines = [
        NOTE + "# Adapters\n",
        "`peft_conf.peft_type` is NO_PEFT (all weights are trained), PRETRAINED_PEFT (training goes on from an",
        "adapter) or one of these types of a new adapter. *Merges*: `mergeAdapter` may be true (where an adapter",
        "cannot be merged, the default of true means nothing and the result is the adapter). *Quantised*: trains on a",
        "base model quantised by `quant_conf`. *New tokens*: the base model's vocabulary may grow. *Continues*: an",
        "adapter of this type can be named in PRETRAINED_PEFT. All trained types save, resume exactly and export in",
        "PEFT's format.\n",
        "| type | what it learns | trains | merges | quantised | new tokens | continues |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in PEFT_TYPES.items():
        trained = row.refused is None
        marks = [trained, *(trained and mark for mark in (row.merges, row.quantised, row.grows, row.continues))]
        lines.append(f"| {name} | {row.what} | {' | '.join('yes' if mark else 'no' for mark in marks)} |")
    lines += ["", "## Notes\n", *_notes(), ""]
    lines += [
        "## Arguments\n",
        "What each type takes in `peft_kwargs`; the words are PEFT's. The following belong to",
        "",
    ]
    lines += ["no type:\n", "| key | instead |", "|---|---|", *(f"| {key} | {why} |" for key, why in OWNED.items()), ""]
    for name, row in PEFT_TYPES.items():
        if row.refused is None:
            lines += [f"### {name}\n", "| key | default | meaning |", "|---|---|---|", *_arguments(name, row), ""]
    return "\n".join(lines)


def _notes() -> Iterator[str]:
    for name, row in PEFT_TYPES.items():
        if row.refused or row.note:
            yield f"- {name}: {row.refused or row.note}"
    initialisations = ", ".join(json.dumps(one) for one in LORA_INITIALISATIONS)
    yield (
        f"- init_lora_weights of LORA is one of {initialisations}: the others change the base model, so that the "
        "adapter would not fit the original one."
    )
    yield "- A base model that ties its head to its embeddings is untied before either gets weights of its own."


def _arguments(name: str, row: PeftType) -> Iterator[str]:
    refused = dict(row.arguments)
    for key, field in (peft_fields(name) or {}).items():
        kinds = [kind for kind in field["kinds"] if kind != "any"]
        if key in OWNED:
            continue
        default = "required" if key in row.required else f"`{json.dumps(field.get('default'))}`"
        if key in refused:
            meaning = f"Refused unless it is the default: {refused[key]}"
        elif not kinds:
            meaning = "Refused: it takes a Python object."
        else:
            meaning = field["help"]
        yield f"| {key} | {default} | {meaning.replace('|', chr(92) + '|')} |"
