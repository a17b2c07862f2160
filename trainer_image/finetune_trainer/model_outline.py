"""A base model without its weights: what a plan needs of it, in seconds and a few megabytes instead of the whole.

The small files (configuration, tokenizer) are copied; of the safetensors files only the headers are read, which say the
name, shape and type of every tensor, and kept in OUTLINE beside the copies, where read_tensors finds them.
"""

import json
import logging
import shutil
from pathlib import Path, PurePosixPath

from finetune_trainer.errors import InputMissing
from finetune_trainer.memory_estimate import OUTLINE, read_header
from finetune_trainer.model_cache import ModelSource, check_model, human
from finetune_trainer.transfer import Entry, download_entries, excluded, list_entries, open_remote

log = logging.getLogger(__name__)

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.msgpack", "*.h5", "*.ckpt", "*.npz")


def fetch_outline(
    source: ModelSource, target: Path, *, needs_tokenizer: bool = True, needs_weights: bool = True
) -> Path:
    """Fills the folder `target` with the outline of a remote model. Raises TrainerErrors."""
    uri = _uri(source)
    log.info("model: the outline of %s", uri)
    entries = list_entries(uri, credentials=source.credentials)
    if not entries:
        raise InputMissing(f"{uri} does not exist or holds no file; check its bucket and path")
    shutil.rmtree(target, ignore_errors=True)
    small = {name: entry for name, entry in entries.items() if not excluded(name, (*_WEIGHTS, ".*"))}
    download_entries(uri, small, target, credentials=source.credentials)
    for folder, headers in _headers(uri, entries, source).items():
        (target / folder).mkdir(parents=True, exist_ok=True)
        (target / folder / OUTLINE).write_text(json.dumps(headers), encoding="utf-8")
    log.info("model: %d small files, %s", len(small), human(sum(entry.size for entry in small.values())))
    check_model(target, uri, needs_tokenizer, needs_weights and not (target / OUTLINE).is_file())
    return target


def _uri(source: ModelSource) -> str:
    location = source.location
    if location.scheme != "hf" or "@" in location.container:
        return location.uri
    return f"hf://{location.container}@{source.revision}" + (f"/{location.path}" if location.path else "")


def _headers(uri: str, entries: dict[str, Entry], source: ModelSource) -> dict[str, dict[str, object]]:
    """The tensors of each folder's safetensors files."""
    found: dict[str, dict[str, object]] = {}
    for name in sorted(entries):
        if not name.endswith(".safetensors") or excluded(name, source.exclude):
            continue
        with open_remote(f"{uri}/{name}", credentials=source.credentials) as stream:
            try:
                header = read_header(stream, name)
            except ValueError as error:
                raise InputMissing(f"{uri}: {error}; upload the model again") from None
        found.setdefault(str(PurePosixPath(name).parent), {}).update(header)
    return found
