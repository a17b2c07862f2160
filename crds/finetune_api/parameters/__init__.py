"""Every parameter of the five documents that the product is built from: its default there, and what it is here.

One table serves `finetune explain` (the origin of a key), `finetune convert` (the names that a source knows) and the
generated page docs/reference/parameters.md. Rows are grouped as the documents group them; `where` names the modules
that act on the key, and proof.py the tests that show it. Tests hold the table to the documents and to the code.
"""

from collections.abc import Iterator
from functools import cache

from finetune_api.parameters.row import REQUIRED, Parameter
from finetune_api.support import REFUSALS

__all__ = ["DOCUMENTS", "REQUIRED", "Parameter", "all_parameters", "parameters_of", "refusal_of", "tests_of"]

DOCUMENTS = {
    "000": "Lamini",
    "001": "Anyscale LLMForge",
    "002": "guide on hyperparameters",
    "003": "config schema of the engine",
    "004": "Hugging Face script",
}


@cache
def all_parameters() -> tuple[Parameter, ...]:
    """Every row, in the order of the documents."""
    from finetune_api.parameters import engine, guide, lamini, llmforge, script

    return (*lamini.ROWS, *llmforge.ROWS, *guide.ROWS, *engine.ROWS, *script.ROWS)


def parameters_of(document: str) -> Iterator[Parameter]:
    """The rows of one document, by its number."""
    return (row for row in all_parameters() if row.document == document)


def refusal_of(path: str) -> str | None:
    """Why a key of spec is refused in this version unless it has one of a few values; None for a key that works."""
    return next((one.message for one in REFUSALS if ".".join(one.path) == path), None)


def tests_of(row: Parameter) -> tuple[str, ...]:
    """The ids of the tests that show that a parameter works."""
    from finetune_api.parameters import proof

    return proof.of(row)
