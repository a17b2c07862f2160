"""Where a job's tokenizer lies: with the model, or fetched beside the data when run_conf.tokenizer names another."""

import logging
from pathlib import Path

from finetune_api.locations import Location, LocationError, parse_location
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.light_tokenizer import LightTokenizer
from finetune_trainer.errors import BadConfiguration, InputMissing
from finetune_trainer.model_cache import TOKENIZER_FILES
from finetune_trainer.transfer import download_tree, insist

log = logging.getLogger(__name__)

_WANTED = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "tekken.json",
    "chat_template*",
    "config.json",
)


def tokenizer_directory(spec: FineTuneJobSpec, model_dir: Path, work_dir: Path) -> Path:
    """The directory to load the tokenizer from, in the download pod and in the train pod alike."""
    location = _named(spec)
    if location is None:
        subfolder = spec.run_conf.model_args.subfolder
        nested = model_dir / subfolder if subfolder else model_dir
        return nested if any((nested / name).is_file() for name in TOKENIZER_FILES) else model_dir
    return Path(location.path) if location.scheme == "local" else work_dir / "tokenizer"


def _named(spec: FineTuneJobSpec) -> Location | None:
    """run_conf.tokenizer, where a bare org/name is a Hugging Face id, as document 003 has it."""
    text = spec.run_conf.tokenizer
    if text is None:
        return None
    try:
        location = parse_location(text if "://" in text or text.startswith("/") else f"hf://{text}")
    except LocationError as error:
        raise BadConfiguration(f"run_conf.tokenizer: {error}") from None
    if location.scheme not in ("local", "hf", "s3", "gs", "az"):
        raise BadConfiguration(f"run_conf.tokenizer: {location.scheme}:// cannot be used here; use hf:// or s3://")
    return location


def fetch_tokenizer(spec: FineTuneJobSpec, work_dir: Path, credentials: dict[str, str]) -> None:
    """Downloads the tokenizer that run_conf.tokenizer names, if it is remote. Raises TrainerErrors."""
    location = _named(spec)
    if location is None or location.scheme == "local":
        return
    target = work_dir / "tokenizer"
    log.info("tokenizer: %s", location.uri)
    if location.scheme == "hf":
        from huggingface_hub import snapshot_download

        insist(
            lambda: snapshot_download(location.container, allow_patterns=list(_WANTED), local_dir=target),
            location.uri,
            credentials.get("hf", "hfTokenSecret (HF_TOKEN)"),
        )
    else:
        download_tree(
            location.uri, target, exclude=("*.safetensors", "*.bin"), credentials=credentials.get(location.scheme)
        )


def load_for_counting(directory: Path, trusted: bool = False) -> object:
    """The tokenizer, by the light path where there is a tokenizer.json, else by transformers. Raises InputMissing."""
    try:
        return LightTokenizer.load(directory)
    except FileNotFoundError:
        pass
    except ValueError as error:
        raise InputMissing(f"the tokenizer cannot be read: {error}") from None
    from transformers import AutoTokenizer  # only for models without tokenizer.json, which it converts

    try:
        return AutoTokenizer.from_pretrained(str(directory), trust_remote_code=trusted)
    except (OSError, ValueError, ImportError) as error:
        raise InputMissing(f"the tokenizer in {directory} cannot be read: {error}") from None
