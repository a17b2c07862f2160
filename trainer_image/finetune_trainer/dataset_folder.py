"""Which files of a folder or repository are the wanted configuration and split of its dataset.

By the rules of Hugging Face's `datasets`, and by its code: the `configs:` of the dataset card, else the names of files
and folders (train, validation, test…). It works on a tree of empty files with the same names, so that one way serves
every store, nothing is downloaded to find out, and a card cannot name a place outside the dataset.
"""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune_trainer.errors import BadConfiguration, BadData, InputMissing

CARD = "README.md"
ENDINGS = {
    "jsonl": (".jsonl", ".json", ".ndjson"),
    "csv": (".csv",),
    "parquet": (".parquet",),
    "text": (".txt",),
}


@dataclass(frozen=True)
class Choice:
    """Relative names in reading order, and what they are."""

    files: tuple[str, ...]
    format: str
    config: str | None
    split: str


def choose(
    uri: str,
    names: Iterable[str],
    card: str | None,
    *,
    config: str | None,
    split: str | None,
    default_split: str,
    format: str | None,
) -> Choice:
    """The files of a dataset, given the relative names of all and the text of its card.

    Without `split`: default_split, or the only one there is. Raises InputMissing with what there is to choose from,
    BadConfiguration where the format must be told, BadData for a card that cannot be read.
    """
    candidates = _candidates(uri, names, format)
    with tempfile.TemporaryDirectory(prefix="dataset-") as folder:
        root = Path(folder)
        for name in candidates:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        chosen_config, splits = _splits(uri, root, _card_configs(uri, card), config)
        chosen_split = _choose_split(uri, splits, chosen_config, split, default_split)
        files = _expand(uri, root, splits[chosen_split])
    return Choice(files, format or _format(uri, files), chosen_config, chosen_split)


def _candidates(uri: str, names: Iterable[str], format: str | None) -> list[str]:
    """The names that may be data, by their endings; with a format whose endings none has, all that are nothing else."""
    plain = [name for name in names if not _hidden(name) and PurePosixPath(name).name != CARD]
    known = {ending for endings in ENDINGS.values() for ending in endings}
    wanted = set(ENDINGS[format]) if format else known
    found = [name for name in plain if _ending(name) in wanted]
    if not found and format:
        found = [name for name in plain if _ending(name) not in known]
    if not found:
        shown = ", ".join(sorted(plain)[:8]) + (" …" if len(plain) > 8 else "")
        raise InputMissing(
            f"{uri} has no data files ({', '.join(sorted(wanted))}); it holds {shown or 'nothing'}. "
            "For files of another ending say what they are with format"
        )
    return sorted(found)


def _hidden(name: str) -> bool:
    """Names that neither `datasets` nor our readers take: .git, __pycache__, _SUCCESS. And none leads out."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _card_configs(uri: str, card: str | None) -> Mapping[str, Mapping[str, object]]:
    """The `configs:` of the card by name, {} if it has none; the default one, if there is one, comes first."""
    if not card:
        return {}
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    try:
        configs = MetadataConfigs.from_dataset_card_data(DatasetCard(card, ignore_metadata_errors=True).data)
        default = configs.get_default_config_name()
    except Exception as error:  # YAML's errors and the library's ValueErrors alike
        raise BadData(f"{uri}: the metadata of its {CARD} cannot be read: {error}") from None
    return {name: configs[name] for name in sorted(configs, key=lambda name: name != default)}


def _splits(
    uri: str, root: Path, configs: Mapping[str, Mapping[str, object]], config: str | None
) -> tuple[str | None, dict[str, list[str]]]:
    """The chosen configuration and its splits with their patterns."""
    if config is not None and config not in configs:
        there = f"it has {', '.join(sorted(configs))}" if configs else f"its {CARD} names no configs; remove config"
        raise InputMissing(f"{uri} has no configuration {config!r}: {there}")
    if config is None and len(configs) > 1 and not _has_default(configs):
        raise InputMissing(f"{uri} has several configurations: set config to one of {', '.join(sorted(configs))}")
    if not configs:
        return None, _by_names(uri, root)
    chosen = config or next(iter(configs))
    about = configs[chosen]
    inside = str(about.get("data_dir") or "").strip("/")
    _check_pattern(uri, inside)
    given = about.get("data_files")
    if given is None:
        return chosen, _below(inside, _by_names(uri, root / inside))
    from datasets.data_files import sanitize_patterns

    patterns: dict[str, list[str]] = sanitize_patterns(given)
    for one in (one for several in patterns.values() for one in several):
        _check_pattern(uri, one)
    return chosen, _below(inside, patterns)


def _below(folder: str, splits: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    return {name: [f"{folder}/{one}" if folder else one for one in patterns] for name, patterns in splits.items()}


def _has_default(configs: Mapping[str, Mapping[str, object]]) -> bool:
    return any(name == "default" or about.get("default") for name, about in configs.items())


def _check_pattern(uri: str, pattern: str) -> None:
    if "://" in pattern or "::" in pattern or pattern.startswith(("/", "~")) or ".." in PurePosixPath(pattern).parts:
        raise BadData(f"{uri}: its {CARD} names data outside the dataset ({pattern!r}), which is not followed")


def _by_names(uri: str, root: Path) -> dict[str, list[str]]:
    """Splits by the names of files and folders."""
    from datasets.data_files import get_data_patterns

    try:
        return dict(get_data_patterns(str(root)))
    except FileNotFoundError:
        raise InputMissing(f"{uri}: the folder that its {CARD} names holds no data files") from None


def _choose_split(
    uri: str, splits: Mapping[str, object], config: str | None, split: str | None, default_split: str
) -> str:
    names = [str(name) for name in splits]
    if split is None and default_split not in names and len(names) == 1:
        return names[0]
    wanted = split or default_split
    if wanted not in names:
        of = f" of configuration {config!r}" if config else ""
        raise InputMissing(f"{uri}{of} has no split {wanted!r}: set split to one of {', '.join(names)}")
    return wanted


def _expand(uri: str, root: Path, patterns: Iterable[str]) -> tuple[str, ...]:
    """Names that the patterns mean, each once, sorted."""
    from datasets.data_files import resolve_pattern

    found: set[str] = set()
    for pattern in patterns:
        try:
            paths = resolve_pattern(pattern, str(root))
        except FileNotFoundError:
            continue  # one of several spellings (train, training)
        found.update(Path(path).relative_to(root).as_posix() for path in paths)
    if not found:
        raise InputMissing(f"{uri}: no file fits {', '.join(patterns)}, which its {CARD} names")
    return tuple(sorted(found))


def _format(uri: str, files: Iterable[str]) -> str:
    formats = {name for file in files for name, endings in ENDINGS.items() if _ending(file) in endings}
    if len(formats) != 1:
        raise BadConfiguration(
            f"{uri} holds files of several formats ({', '.join(sorted(formats))}); say with format which to take"
        )
    return formats.pop()
