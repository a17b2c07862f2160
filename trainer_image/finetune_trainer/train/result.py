"""The result of a job: which folders are exported, under which names, with which facts about them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.locations import parse_location
from finetune_api.status import ModelReport
from finetune_trainer.data import PreparedTokenizer
from finetune_trainer.train import adapters, export
from finetune_trainer.train import model as models
from finetune_trainer.train.checkpoint import TrainerState
from finetune_trainer.train.console import logger
from finetune_trainer.train.model_card import Card
from finetune_trainer.train.one_task import EXPORTED_AS
from finetune_trainer.train.settings import Settings

FINAL = "checkpoint-final"


@dataclass(frozen=True)
class Result:
    """What the report says, and the folders to copy to checkpointsRemote."""

    report: ModelReport
    folders: list[Path]


def new_base(settings: Settings) -> Path:
    """Where a base model goes whose vocabulary grew."""
    arguments = settings.resolved.spec.sft_args
    return settings.places.checkpoints / (
        arguments.save_name_if_new_basemodel if arguments else "checkpoint-new-basemodel"
    )


def write_result(
    settings: Settings, model: Any, tokenizer: PreparedTokenizer, state: TrainerState, vocabulary_grew: bool
) -> Result:
    """Exports what was trained, and the merged model if an adapter was and that is wanted. The model is consumed."""
    folder, kind = settings.places.checkpoints, adapters.adapter_type(model)
    grown = [new_base(settings)] if vocabulary_grew and settings.adapter.used else []
    plan = export.Export(
        tokenizer=tokenizer.tokenizer,
        stop_token_ids=tokenizer.stop_token_ids,
        pad_token_id=tokenizer.pad_token_id,
        base_name=str(grown[0]) if grown else _base_name(settings),
        use_cache=settings.model.use_cache,
        dtype=models.stored_dtype(settings.places.model, settings.model),
        training_arguments=settings.arguments,
        card=_card(settings, state, EXPORTED_AS.get(kind, kind) if kind else None),
        facts={"step": state.step, "evalLoss": state.eval_loss, "jobUid": settings.job.uid, "kind": "export"},
    )
    target = folder / FINAL
    export.export_result(model, target, plan)
    logger.info(f"exported {target}")
    report = ModelReport(path=str(target), adapter=str(target) if settings.adapter.used else None)
    if not settings.resolved.merge_adapter or not adapters.can_merge(model):
        return Result(report, [*grown, target])
    merged = folder / f"{FINAL}-merged"
    if settings.model.quantization is not None or kind in EXPORTED_AS:
        if grown:  # it was saved without subfolder or variant
            original = models.load_original(grown[0], replace(settings.model, loading=_code(settings)))
        else:
            original = models.load_original(settings.places.model, settings.model)
        model = adapters.with_adapter(original, target)
    export.export_merged(model, merged, plan)
    logger.info(f"exported {merged}")
    report.merged = str(merged)
    return Result(report, [*grown, target, merged])


def _code(settings: Settings) -> dict[str, Any]:
    """Of the arguments of from_pretrained, what holds for a copy of the model too."""
    return {key: value for key, value in settings.model.loading.items() if key == "trust_remote_code"}


def _base_name(settings: Settings) -> str:
    """What an adapter calls its base: a hub's id where there is one, for that is what loads elsewhere."""
    base = parse_location(settings.resolved.spec.basemodel)
    return base.container if base.scheme == "hf" else base.uri


def _bits(settings: Settings) -> str | None:
    given = settings.model.quantization
    if given is None:
        return None
    return "8 bits" if given["load_in_8bit"] else f"4 bits ({given['bnb_4bit_quant_type']})"


def _card(settings: Settings, state: TrainerState, adapter: str | None) -> Card:
    resolved, args = settings.resolved, settings.resolved.training_args
    return Card(
        name=settings.job.name,
        base=parse_location(resolved.spec.basemodel).uri,
        data=tuple(dataset.path for dataset in resolved.spec.data_conf.training_data.datasets),
        method=resolved.spec.method,
        adapter=adapter,
        settings={
            "steps": state.step,
            "tokens": state.tokens,
            "total batch size": resolved.total_batch,
            "learning rate": settings.optimizer.learning_rate,
            "schedule": args["lr_scheduler_type"],
            "optimizer": args["optim"],
            "weight decay": args["weight_decay"],
            "seed": args["seed"],
            "base model quantised to": _bits(settings),
            "chat template": None if resolved.spec.method == "clm" else resolved.spec.data_conf.chat_template_name,
        },
        first_loss=state.first_loss,
        loss=state.loss,
        eval_loss=state.eval_loss,
    )
