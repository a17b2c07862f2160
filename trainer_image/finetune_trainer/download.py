"""The download pod: brings model and data, checks everything that can be checked without a GPU, and says what was
found.

Runs as `python -m finetune_trainer.download`, and in process for `finetune run` (main). Never imports torch, so that
it is done in seconds, unless the model itself shall be changed (fresh_model.py). The termination message holds the
account: rows, tokens, steps, effective settings, a memory estimate; the exit code says what a failure means
(docs/contracts.md).
"""

import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from finetune_api import constants
from finetune_api.job_config import JobConfig
from finetune_api.locations import model_key, parse_location
from finetune_api.report import TerminationReport
from finetune_api.resolve import ResolvedSpec, resolve
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer import redaction
from finetune_trainer.adapter_source import adapter_directory, check_adapter, fetch_adapter
from finetune_trainer.data import load_training_data, padded_length, prepare_tokenizer
from finetune_trainer.data.preparing import backend_of
from finetune_trainer.data.sources import datasets_of
from finetune_trainer.data_files import fetch_data
from finetune_trainer.errors import BadConfiguration, InputMissing, Interrupted, describe
from finetune_trainer.memory_estimate import Model, Tensor, read_sizes, read_tensors
from finetune_trainer.model_cache import ModelSource, check_model, fetch_model, human, is_cached
from finetune_trainer.model_outline import fetch_outline
from finetune_trainer.planning import Plan, make_plan, read_model
from finetune_trainer.positions import check_positions
from finetune_trainer.remote_code import check_code, trusts_tokenizer
from finetune_trainer.tokenizer_source import fetch_tokenizer, load_for_counting, tokenizer_directory
from finetune_trainer.train.fresh_model import check_early, weight_shapes
from finetune_trainer.transfer import use_endpoint

log = logging.getLogger("finetune.download")


@dataclass(frozen=True)
class Places:
    """Directories of this pod (or of `finetune run`)."""

    work: Path
    model: Path
    cache: Path

    @classmethod
    def from_environment(cls) -> "Places":
        return cls(
            Path(os.environ.get(constants.ENV_WORK_DIR) or constants.WORK_DIR),
            Path(os.environ.get(constants.ENV_MODEL_DIR) or constants.MODEL_DIR),
            Path(os.environ.get(constants.ENV_MODEL_CACHE_DIR) or constants.MODEL_CACHE_DIR),
        )


def main() -> int:
    """Downloads and checks; returns the exit code after writing the termination report and the record."""
    redaction.install()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        with _interruptible():
            places = Places.from_environment()
            report = download(read_config(), places)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt):
            error = Interrupted("interrupted; run again to go on with the files that arrived")
        report = TerminationReport.model_validate(describe(error))
        if report.exit_code == constants.ExitCode.INTERNAL:
            traceback.print_exception(error)
        log.error("%s: %s", report.reason, report.message)
    _write_report(report)
    return int(report.exit_code or 0)


def read_config() -> JobConfig:
    """The job's configuration. Raises BadConfiguration if it is missing or not ours."""
    path = Path(os.environ.get(constants.ENV_CONFIG) or constants.CONFIG_FILE)
    try:
        return JobConfig.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfiguration(f"the configuration {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadConfiguration(f"the configuration {path} is not a JobConfig: {error}") from None


def download(config: JobConfig, places: Places) -> TerminationReport:
    """Everything the pod does, as plain steps. Raises TrainerErrors."""
    resolved = resolve(config.parsed_spec())
    model_dir, notices = bring_inputs(resolved.spec, places)
    return _account(config, resolved, places, model_dir, notices)


def bring_inputs(spec: FineTuneJobSpec, places: Places, *, outline: bool = False) -> tuple[Path, list[str]]:
    """Model, tokenizer, adapter and data, each to its place; the model's directory, and notices about it.

    outline: the model without its weights (model_outline.py), enough for a plan.
    """
    use_endpoint(spec.bucket_storage_host)
    credentials = credentials_of(spec)
    model_dir, notices = bring_model(spec, places, credentials, outline=outline)
    fetch_tokenizer(spec, places.work, credentials)
    fetch_adapter(spec, places.work, credentials)
    fetch_data(datasets_of(spec), places.work, credentials)
    return model_dir, notices


def credentials_of(spec: FineTuneJobSpec) -> dict[str, str]:
    """Scheme -> where its keys come from, so that a refusal names the Secret and its keys."""
    found = {}
    if secret := spec.bucket_credentials_secret:
        found["s3"] = f"the keys {secret.access_key_key} and {secret.secret_key_key} of Secret {secret.name}"
    if token := spec.hf_token_secret:
        found["hf"] = f"the key {token.key} of Secret {token.name}"
    return found


def bring_model(
    spec: FineTuneJobSpec, places: Places, credentials: dict[str, str], *, outline: bool = False
) -> tuple[Path, list[str]]:
    """The directory of the base model, downloaded into the cache if it is remote, and notices about it."""
    location = parse_location(spec.basemodel)
    own_tokenizer, weights = spec.run_conf.tokenizer is None, not spec.run_conf.from_scratch
    if location.scheme in ("local", "pvc"):
        path = _mounted_model(spec, places)
        if not path.is_dir():
            raise InputMissing(f"{location.uri} is no folder here ({path}); check basemodel and the claim it names")
        return path, list(check_model(_model_folder(path, spec), location.uri, own_tokenizer, weights))
    source = ModelSource(
        location,
        revision=spec.run_conf.model_args.revision,
        exclude=spec.hf_download_exclude_glob,
        credentials=credentials.get(location.scheme),
    )
    key = model_key(spec)
    if outline and not is_cached(places.cache / key):
        target = places.cache / f"{key}.outline"
        return fetch_outline(source, target, needs_tokenizer=own_tokenizer, needs_weights=weights), []
    log.info("model: %s", location.uri)
    model = fetch_model(source, places.cache, key, needs_tokenizer=own_tokenizer, needs_weights=weights)
    total = human(sum(model.files.values()))
    log.info("model: %d files, %s%s", len(model.files), total, "" if model.fetched else ", in the cache already")
    return model.path, list(model.notices)


def _mounted_model(spec: FineTuneJobSpec, places: Places) -> Path:
    location = parse_location(spec.basemodel)
    if location.scheme == "local":
        return Path(location.path)
    claim = Path(constants.PVC_MOUNT_DIR) / location.container / location.path
    return claim if claim.is_dir() else places.model


def _model_folder(path: Path, spec: FineTuneJobSpec) -> Path:
    subfolder = spec.run_conf.model_args.subfolder
    return path / subfolder if subfolder else path


def _account(
    config: JobConfig, resolved: ResolvedSpec, places: Places, model_dir: Path, notices: list[str]
) -> TerminationReport:
    """The plan of the job in the words of the report."""
    plan, found = examine(config, resolved, places, model_dir)
    notices = [*notices, *found]
    for notice in notices:
        log.warning("notice: %s", notice)
    message = summary(plan)
    log.info("%s", message)
    return TerminationReport(
        reason="Completed",
        message=message,
        exit_code=0,
        total_steps=plan.steps.total,
        dataset=plan.dataset_report(),
        notices=notices or None,
        effective=plan.effective(),
    )


def examine(
    config: JobConfig,
    resolved: ResolvedSpec,
    places: Places,
    model_dir: Path,
    tokens_per_second: float | None = None,
) -> tuple[Plan, list[str]]:
    """Reads every row, counts tokens, steps and memory; the plan and the notices about the data. Raises TrainerErrors
    for what training would fail with."""
    spec, folder = resolved.spec, _model_folder(model_dir, resolved.spec)
    check_code(folder, spec)
    tokenizer = load_for_counting(tokenizer_directory(spec, model_dir, places.work), trusts_tokenizer(spec))
    prepared = prepare_tokenizer(config, tokenizer)
    changed = check_early(spec, folder, backend_of(tokenizer).get_vocab_size(with_added_tokens=True))
    model = read_model(folder)
    check_adapter(spec, prepared.added_tokens, model.tensors, places.work)
    data = load_training_data(config, tokenizer, places.work)
    if changed is not None and spec.run_conf.from_scratch:  # its sizes are not those of the files
        model = _model_from_scratch(changed)
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8")) if changed is None else changed.to_dict()
    longest = max(data.report.longest or 0, padded_length(spec) or 0)
    notices = [*data.notices, *check_positions(fields, longest, spec.method)]
    adapter = adapter_directory(spec, places.work)
    plan = make_plan(
        resolved,
        data,
        model,
        adapter=read_tensors(adapter) if adapter else None,
        tokens_per_second=tokens_per_second,
    )
    return plan, notices


def _model_from_scratch(config: Any) -> Model:
    tensors = {name: Tensor(shape, 4) for name, shape in weight_shapes(config).items()}
    return Model(tensors, read_sizes(config.to_dict(), tensors))


def summary(plan: Plan) -> str:
    """The plan in a sentence, for `kubectl get events` and logs."""
    data, memory = plan.data, plan.memory
    parts = [
        f"{data.examples} training and {data.validation_examples} validation examples",
        f"{data.tokens} tokens",
        f"{plan.steps.total} steps",
    ]
    if memory:
        parts.append(f"about {human(memory.total)} per device")
    return ", ".join(parts)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM becomes Interrupted, which leaves every file that arrived in place."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted("stopped by SIGTERM while downloading; the next attempt goes on with the files that arrived")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write_report(report: TerminationReport) -> None:
    """The termination message for the operator, and the whole on the volume, since a deleted pod leaves no message."""
    work = Path(os.environ.get(constants.ENV_WORK_DIR) or constants.WORK_DIR)
    log_path = Path(os.environ.get(constants.ENV_TERMINATION_LOG) or constants.TERMINATION_LOG)
    for path, text in ((log_path, report.to_message()), (work / "records" / "download.json", report.to_text())):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(redaction.redact(text), encoding="utf-8")
        except OSError as error:  # the exit code still says it
            log.warning("cannot write %s: %s", path, error)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # at once: threads may still be reading from a store that no longer matters
