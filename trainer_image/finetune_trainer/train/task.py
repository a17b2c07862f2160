"""What a run trains for, by its method: the objective, and the job's rows as this objective takes them.

Made before a checkpoint's weights are loaded: the reference model of preference learning is the model as it is then.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune_api.methods import DPOArguments
from finetune_trainer.data import PreparedTokenizer, TrainingData, padded_length
from finetune_trainer.train import adapters
from finetune_trainer.train.batches import Examples, Padding
from finetune_trainer.train.distributed import World
from finetune_trainer.train.documents import any_packed, check_documents_apart
from finetune_trainer.train.objective import LanguageModelling, Objective
from finetune_trainer.train.settings import Settings

if TYPE_CHECKING:
    from finetune_trainer.train.preference import PreferenceLearning


@dataclass(frozen=True)
class Task:
    """The objective with the rows to train on and to evaluate on."""

    objective: Objective
    train: Examples
    evaluation: Examples | None


def make_task(
    settings: Settings,
    model: Any,
    tokenizer: PreparedTokenizer,
    data: TrainingData,
    *,
    world: World,
    precision: str,
    identity: dict[str, Any],
    beat: Callable[[], None],
) -> Task:
    """The task of a job, given its model before training."""
    takes_positions = "position_ids" in inspect.signature(adapters.base_of(model).forward).parameters
    padding = Padding(
        tokenizer.pad_input_id,
        "right" if adapters.has_virtual_tokens(model) else tokenizer.tokenizer.padding_side,
        takes_positions,
        padded_length(settings.resolved.spec),
    )
    arguments = settings.resolved.spec.dpo_args
    if settings.resolved.spec.method != "dpo" or arguments is None:
        if any_packed([*data.train, *(data.eval or [])]):
            check_documents_apart(model, takes_positions, world.device, precision)
        return _task(LanguageModelling(padding, settings.loop.label_smoothing), data)
    objective = _preferences(settings, arguments, model, padding)
    if not arguments.precompute_ref_log_probs:
        return _task(objective, data)
    from finetune_trainer.train.reference_log_probs import log_probs_of

    trained, evaluated = log_probs_of(
        objective,
        [data.train, data.eval or []],
        folder=settings.places.records,
        identity={**identity, "precision": precision, "torch_dtype": settings.model.dtype},
        batch_size=settings.resolved.batch(world.size).eval_per_device,
        world=world,
        precision=precision,
        beat=beat,
    )
    evaluation = objective.examples(data.eval, evaluated) if data.eval else None
    return Task(objective, objective.examples(data.train, trained), evaluation)


def _task(objective: Objective, data: TrainingData) -> Task:
    return Task(objective, objective.examples(data.train), objective.examples(data.eval) if data.eval else None)


def _preferences(settings: Settings, arguments: DPOArguments, model: Any, padding: Padding) -> "PreferenceLearning":
    from finetune_trainer.train.preference import PreferenceLearning, Sync, disable_dropout
    from finetune_trainer.train.preference_loss import PreferenceSettings
    from finetune_trainer.train.reference import reference_of

    if arguments.disable_dropout:
        disable_dropout(model)
    loss = PreferenceSettings(
        loss_type=arguments.loss_type,
        beta=arguments.beta,
        label_smoothing=arguments.label_smoothing,
        ld_alpha=arguments.ld_alpha,
        f_divergence_type=arguments.f_divergence_type,
        f_alpha_divergence_coef=arguments.f_alpha_divergence_coef,
        use_weighting=arguments.use_weighting,
        discopop_tau=arguments.discopop_tau,
    )
    sync = None
    if arguments.sync_ref_model:
        sync = Sync(arguments.ref_model_sync_steps, arguments.ref_model_mixup_alpha)
    adapter, before = settings.adapter, arguments.precompute_ref_log_probs
    reference = reference_of(model, adapter.kind, adapter.kwargs, untrained=before)
    return PreferenceLearning(model, padding, loss, reference, sync=sync)
