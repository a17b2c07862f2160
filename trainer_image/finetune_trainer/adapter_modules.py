"""Whether the modules that peft_kwargs names exist in a model: asked of the weights' names in the download pod, and of
the model itself before training.

PEFT refuses a configuration only if nothing at all matches; one misspelt name among several, or in modules_to_save, is
dropped without a word, and the run trains less than was asked for. Imports no torch.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SHOWN = 20
_LIST_OR_PATTERN = ("target_modules", "exclude_modules", "feedforward_modules")
_PATTERNS = ("rank_pattern", "alpha_pattern", "n_frequency_pattern")
# Heads that are tied to the embeddings are not stored, but the model has them.
_TOO_GENERAL = ("model", "layers", "transformer", "h", "embed_out", "output")
_UNSTORED = ("lm_head", "embed_out", "output")


def stored_module_names(tensors: Iterable[str]) -> set[str] | None:
    """Names of modules by the names of a model's stored weights; None where models differ in memory from their files.

    transformers fuses the experts of mixtures when it loads them, under names that no file has.
    """
    names = {name.rpartition(".")[0] for name in tensors}
    if not names or any("expert" in name for name in names):
        return None
    nested = {".".join(parts[:end]) for name in names for parts in [name.split(".")] for end in range(1, len(parts))}
    return names | nested | set(_UNSTORED)


def missing_modules(names: Iterable[str], kwargs: Mapping[str, Any]) -> list[str]:
    """A sentence for each name in peft_kwargs that no module has, with the names that the model has."""
    known = sorted(name for name in names if name)
    found: list[str] = []
    for key in _LIST_OR_PATTERN:
        value = kwargs.get(key)
        if isinstance(value, str):
            if value != "all-linear" and not any(re.fullmatch(value, name) for name in known):
                found.append(_sentence(key, value, known))
        elif isinstance(value, Sequence):
            found += [_sentence(key, one, known) for one in value if not _named(str(one), known)]
    for one in _as_list(kwargs.get("modules_to_save")):
        if not any(name.endswith(str(one)) for name in known):
            found.append(_sentence("modules_to_save", one, known))
    for key in _PATTERNS:
        value = kwargs.get(key)
        for one in value if isinstance(value, Mapping) else ():
            if not any(re.match(rf"(.*\.)?({one})$", name) for name in known):
                found.append(_sentence(key, one, known))
    return found


def plain_names(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Of peft_kwargs, the names that a model has in its files as in memory: last parts. Paths may differ between the
    two, and so may what a pattern matches."""
    lists = {key: kwargs.get(key) for key in (*_LIST_OR_PATTERN, "modules_to_save")}
    return {
        key: [one for one in value if str(one).isidentifier()]
        for key, value in lists.items()
        if isinstance(value, Sequence) and not isinstance(value, str)
    }


def _as_list(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value or ())


def _named(target: str, known: Iterable[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for name in known)


def _sentence(key: str, value: Any, known: Sequence[str]) -> str:
    has = ", ".join(_last_parts(known))
    return f"peft_conf.peft_kwargs.{key} names {value!r}, but the model has no such module; it has {has}"


def _last_parts(known: Sequence[str]) -> list[str]:
    """The last parts of names, without numbers, in the order of the alphabet; not more than can be read."""
    parts = sorted({name.rpartition(".")[2] for name in known} - {""})
    parts = [part for part in parts if not part.isdigit() and part not in _TOO_GENERAL]
    return parts if len(parts) <= SHOWN else [*parts[:SHOWN], f"and {len(parts) - SHOWN} more"]
