"""A job's training, top to bottom: load -> adapters -> resume -> train -> export -> upload. Every rank runs it."""

import inspect
import json
import os
from pathlib import Path
from typing import Any

import torch

from finetune_api import constants
from finetune_api.locations import parse_location
from finetune_api.status import EffectiveSettings, ModelReport
from finetune_trainer.data import PreparedTokenizer, TrainingData, load_training_data, prepare_tokenizer
from finetune_trainer.errors import BadConfiguration, Interrupted, OutOfMemory
from finetune_trainer.train import adapters, checkpoint, checkpoint_folder, export, model_card, remote
from finetune_trainer.train import model as models
from finetune_trainer.train.batches import Examples, Padding
from finetune_trainer.train.checkpoint import TrainerState
from finetune_trainer.train.console import logger
from finetune_trainer.train.distributed import World, choose_precision, device_name, start_world
from finetune_trainer.train.loop import Loop, Parts, Reporting
from finetune_trainer.train.optimizer import build_optimizer, build_schedule, restore_schedule
from finetune_trainer.train.progress import Progress
from finetune_trainer.train.resume import find_start
from finetune_trainer.train.sampler import BatchShape
from finetune_trainer.train.seeding import seed_all, seed_for
from finetune_trainer.train.settings import Settings
from finetune_trainer.train.stopping import Stop
from finetune_trainer.train.tracking import TAG_JOB_UID, Tracker, TrackingSettings, tracked_params

FINAL = "checkpoint-final"


class Run:
    """One attempt at a job, on one rank."""

    def __init__(self, settings: Settings, progress: Progress, stop: Stop) -> None:
        self.settings = settings
        self.progress = progress
        self.stop = stop
        self.tracker: Tracker | None = None
        self.uploader: remote.Uploader | None = None
        self.world: World | None = None

    def train(self) -> None:
        """The whole of it. Raises TrainerErrors; Interrupted after what was reached is saved."""
        try:
            self._train()
        except torch.OutOfMemoryError as error:
            per_device = self.settings.resolved.batch(self._world.size).per_device
            raise OutOfMemory(memory_advice(per_device, self.settings, str(error))) from error

    def _train(self) -> None:
        settings = self.settings
        self.world = world = start_world(settings.use_cpu)
        precision = choose_precision(settings.precision, world.device)
        self._set_numerics()
        tokenizer, data = self._load_data()
        plain, grew = self._load_model(tokenizer, precision)
        identity = {**settings.identity, "training examples": len(data.train), "training tokens": data.report.tokens}
        start = self._find_start(identity)
        state = self._restore_weights(plain, start)
        self._begin_tracking(data)
        shape = self._batch_shape()
        self._report_settings(plain, shape, precision, data)
        loop = self._build_loop(plain, tokenizer, data, shape, precision, state, start, identity)
        self.stop.at_once = None  # from here on there may be something to save
        if not loop.run():
            raise Interrupted(self._interrupted_text(state))
        self._restore_best(plain, state)
        self._export(plain, tokenizer, state, grew, identity)

    # --- loading ----------------------------------------------------------------------------------------------------

    def _set_numerics(self) -> None:
        settings = self.settings
        if settings.full_determinism:
            from transformers.trainer_utils import enable_full_determinism

            enable_full_determinism(settings.loop.seed)
        if settings.tf32 is not None and torch.cuda.is_available():
            torch.backends.cuda.matmul.allow_tf32 = settings.tf32
            torch.backends.cudnn.allow_tf32 = settings.tf32
        seed_all(seed_for(settings.loop.seed, "model"))

    def _load_data(self) -> tuple[PreparedTokenizer, TrainingData]:
        settings = self.settings
        subfolder = settings.model.loading.get("subfolder")
        tokenizer = models.load_tokenizer(settings.places.model, settings.places.tokenizer, subfolder)
        prepared = prepare_tokenizer(settings.job, tokenizer)
        data = load_training_data(settings.job, prepared.tokenizer, settings.places.work)
        for notice in data.notices:
            self.progress.notice(notice)
        self.progress.extras["dataset"] = data.report
        self._log(f"data: {len(data.train)} training and {len(data.eval or [])} validation examples")
        return prepared, data

    def _load_model(self, tokenizer: PreparedTokenizer, precision: str) -> tuple[Any, bool]:
        """The model with its adapter, and whether its vocabulary grew."""
        settings, world = self.settings, self._world
        model = models.load_model(
            settings.places.model,
            settings.model,
            device=world.device,
            world_size=world.size,
            precision=precision,
            trains_all=not settings.adapter.used,
        )
        export.make_saveable(model)
        grew = models.grow_vocabulary(model, len(tokenizer.tokenizer))
        models.save_memory(model, settings.model)
        if settings.adapter.used:
            if grew:
                self._save_new_base(model, tokenizer)
            seed_all(seed_for(settings.loop.seed, "adapter"))
            model = adapters.add_adapter(model, settings.adapter, vocabulary_grew=tokenizer.added_tokens > 0)
            if settings.model.gradient_checkpointing:
                model.enable_input_require_grads()
        models.trainable_in_fp32(model, settings.model.dtype)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise BadConfiguration(
                "nothing is trained: the adapter leaves every weight frozen; check peft_conf.peft_kwargs"
            )
        return model, grew

    def _save_new_base(self, model: Any, tokenizer: PreparedTokenizer) -> None:
        spec = self.settings.resolved.spec
        if not self._world.main or spec.sft_args is None:
            return
        target = self.settings.places.checkpoints / spec.sft_args.save_name_if_new_basemodel
        self.progress.notice(
            f"the vocabulary grew by {tokenizer.added_tokens} tokens: the adapter's base model is {target}"
        )
        export.export_base(model, tokenizer.tokenizer, target, {"kind": "basemodel"})

    # --- resuming ---------------------------------------------------------------------------------------------------

    def _find_start(self, identity: dict[str, Any]) -> Path | None:
        settings, world = self.settings, self._world
        found: tuple[Path | None, Exception | None] = (None, None)
        if world.main:
            try:
                start = find_start(
                    settings.places.checkpoints,
                    settings.resume,
                    job_uid=settings.job.uid,
                    identity=json.loads(json.dumps(identity)),
                    fetch=self._fetch,
                )
                for notice in start.notices:
                    self.progress.notice(notice)
                found = (start.checkpoint, None)
            except Exception as error:
                found = (None, error)
        checkpoint_folder, error = world.from_main(found)
        if error is not None:
            raise error
        return checkpoint_folder

    def _fetch(self) -> Path | None:
        spec = self.settings.resolved.spec
        if not spec.checkpoints_remote or (spec.debug and spec.debug.skip_checkpoint_download):
            return None
        return remote.fetch_newest(spec.checkpoints_remote, self.settings.places.checkpoints)

    def _restore_weights(self, model: Any, start: Path | None) -> TrainerState:
        if start is None:
            return TrainerState()
        checkpoint.load_weights(model, start)
        state = checkpoint.load_state(start)
        state.resumed_from.append(state.step)
        self._log(f"resuming from {start.name}")
        self.progress.update(
            resumed_from_step=state.step,
            step=state.step,
            loss=state.loss,
            first_loss=state.first_loss,
            eval_loss=state.eval_loss,
        )
        return state

    # --- training ---------------------------------------------------------------------------------------------------

    def _batch_shape(self) -> BatchShape:
        plan = self.settings.resolved.batch(self._world.size)
        return BatchShape(plan.per_device, plan.accumulation, self._world.size)

    def _build_loop(
        self,
        plain: Any,
        tokenizer: PreparedTokenizer,
        data: TrainingData,
        shape: BatchShape,
        precision: str,
        state: TrainerState,
        start: Path | None,
        identity: dict[str, Any],
    ) -> Loop:
        settings, world = self.settings, self._world
        optimizer = build_optimizer(plain, settings.optimizer)
        scaler = torch.amp.GradScaler(world.device.type) if precision == "fp16" else None
        if start is not None:
            checkpoint.load_optimizer(start, optimizer, scaler)
        takes_positions = "position_ids" in inspect.signature(adapters.base_of(plain).forward).parameters
        padding = Padding(tokenizer.pad_input_id, tokenizer.tokenizer.padding_side, takes_positions)
        parts = Parts(
            model=world.accelerator.prepare_model(plain) if world.size > 1 else plain,
            plain=plain,
            optimizer=optimizer,
            schedule=None,
            scaler=scaler,
            max_grad_norm=settings.optimizer.max_grad_norm,
            train=Examples(data.train, padding),
            evaluation=Examples(data.eval, padding) if data.eval else None,
            shape=shape,
            eval_batch_size=settings.resolved.batch(world.size).eval_per_device,
            world=world,
            precision=precision,
        )
        facts = {"jobUid": settings.job.uid, "attempt": settings.attempt, "identity": identity}

        def save(current: TrainerState) -> None:
            if world.main:
                self._save_checkpoint(parts, current, facts)
            world.barrier()

        loop = Loop(parts, settings.loop, Reporting(self.progress, self._metrics, save, self._stopping), state)
        parts.schedule = build_schedule(optimizer, settings.optimizer, loop.total_steps)
        if start is not None:
            restore_schedule(parts.schedule, state.step)
        self._log(f"training {loop.total_steps} steps of {shape.total} examples ({loop.steps_per_epoch} an epoch)")
        self.progress.update(phase="training", step=state.step, total_steps=loop.total_steps)
        if data.report.steps_per_epoch is None:
            data.report.steps_per_epoch, data.report.total_steps = loop.steps_per_epoch, loop.total_steps
        return loop

    def _save_checkpoint(self, parts: Parts, state: TrainerState, facts: dict[str, Any]) -> None:
        folder, limit = self.settings.places.checkpoints, self.settings.loop.save_total_limit
        path = checkpoint.save_checkpoint(
            folder, model=parts.plain, optimizer=parts.optimizer, scaler=parts.scaler, state=state, facts=facts
        )
        self._log(f"saved {path.name}")
        if self.uploader is not None:
            self.uploader.send(path)
        for step in checkpoint_folder.prune(folder, limit, {state.best_step} if state.best_step else set()):
            if self.uploader is not None:
                self.uploader.remove(step)
        self.progress.update(checkpoints=checkpoint_folder.report_checkpoints(folder)[-50:])

    def _stopping(self) -> bool:
        return self.stop.requested

    def _metrics(self, numbers: dict[str, float], step: int) -> None:
        if self.tracker is not None:
            self.tracker.log(numbers, step)
            self.progress.update(mlflow=self.tracker.report())

    def _interrupted_text(self, state: TrainerState) -> str:
        if self.settings.loop.save.strategy == "no":
            return f"stopped after step {state.step}; save_strategy is no, so the next attempt starts over"
        if state.step == 0:
            return "stopped before the first step was done; the next attempt starts over"
        return f"stopped after step {state.step}, with a checkpoint; the next attempt resumes there"

    # --- the result -------------------------------------------------------------------------------------------------

    def _restore_best(self, model: Any, state: TrainerState) -> None:
        best = state.best_step
        if not self.settings.loop.load_best or best is None or best == state.step:
            return
        checkpoint.load_weights(model, checkpoint_folder.checkpoint_path(self.settings.places.checkpoints, best))
        self.progress.notice(
            f"load_best_model_at_end: the result is that of step {best} (eval loss {state.best_metric:.4f})"
        )

    def _export(
        self, model: Any, tokenizer: PreparedTokenizer, state: TrainerState, grew: bool, identity: dict[str, Any]
    ) -> None:
        world = self._world
        self.progress.update(phase="exporting")
        if world.main:
            report, folders = self._write_result(model, tokenizer, state, grew, identity)
            if self.uploader is not None:
                self.uploader.finish(folders, self.progress.beat)
                report.remote = self.uploader.location(FINAL)
            self.progress.extras["model"] = report
        world.barrier()

    def _write_result(
        self, model: Any, tokenizer: PreparedTokenizer, state: TrainerState, grew: bool, identity: dict[str, Any]
    ) -> tuple[ModelReport, list[Path]]:
        settings = self.settings
        folder = settings.places.checkpoints
        spec = settings.resolved.spec
        base = parse_location(spec.basemodel)
        base_name = base.container if base.scheme == "hf" else base.uri
        folders = []
        if grew and settings.adapter.used and spec.sft_args is not None:
            folders.append(folder / spec.sft_args.save_name_if_new_basemodel)
            base_name = str(folders[0])
        plan = export.Export(
            tokenizer=tokenizer.tokenizer,
            stop_token_ids=tokenizer.stop_token_ids,
            pad_token_id=tokenizer.pad_token_id,
            base_name=base_name,
            use_cache=settings.model.use_cache,
            dtype=models.stored_dtype(settings.places.model, settings.model),
            training_arguments=self._arguments(),
            card=self._card(state),
            facts={"step": state.step, "evalLoss": state.eval_loss, "jobUid": settings.job.uid, "kind": "export"},
        )
        target = folder / FINAL
        export.export_result(model, target, plan)
        self._log(f"exported {target}")
        folders.append(target)
        report = ModelReport(path=str(target), adapter=str(target) if settings.adapter.used else None)
        if settings.resolved.merge_adapter:
            merged = folder / f"{FINAL}-merged"
            self.progress.beat()
            export.export_merged(model, merged, plan)
            self._log(f"exported {merged}")
            folders.append(merged)
            report.merged = str(merged)
        return report, folders

    def _arguments(self) -> dict[str, Any]:
        resolved = self.settings.resolved
        return {
            **resolved.training_args,
            "total_train_batch_size": resolved.total_batch,
            "peft_conf": resolved.spec.to_dict()["peft_conf"],
        }

    def _card(self, state: TrainerState) -> model_card.Card:
        settings, resolved = self.settings, self.settings.resolved
        args = resolved.training_args
        data = [dataset.path for dataset in resolved.spec.data_conf.training_data.datasets]
        return model_card.Card(
            name=settings.job.name,
            base=resolved.spec.basemodel,
            data=tuple(data),
            method=resolved.spec.method,
            adapter=settings.adapter.kind if settings.adapter.used else None,
            settings={
                "steps": state.step,
                "tokens": state.tokens,
                "total batch size": resolved.total_batch,
                "learning rate": args["learning_rate"],
                "schedule": args["lr_scheduler_type"],
                "optimizer": args["optim"],
                "weight decay": args["weight_decay"],
                "seed": args["seed"],
                "chat template": resolved.spec.data_conf.chat_template_name,
            },
            first_loss=state.first_loss,
            loss=state.loss,
            eval_loss=state.eval_loss,
        )

    # --- reporting --------------------------------------------------------------------------------------------------

    @property
    def _world(self) -> World:
        assert self.world is not None
        return self.world

    def _log(self, text: str) -> None:
        if self._world.main:
            logger.info(text)

    def _report_settings(self, model: Any, shape: BatchShape, precision: str, data: TrainingData) -> None:
        settings, world = self.settings, self._world
        trained, everything = models.count_parameters(model)
        plan = settings.resolved.batch(world.size)
        effective = EffectiveSettings(
            world_size=world.size,
            per_device_batch=shape.per_device,
            accumulation=shape.accumulation,
            eval_per_device_batch=plan.eval_per_device,
            total_batch=shape.total,
            learning_rate=settings.optimizer.learning_rate,
            precision=precision,
            distributed_type=settings.resolved.distributed_type,
            device=device_name(world.device),
            trainable_parameters=trained,
            parameters=everything,
        )
        self.progress.update(effective=effective)
        self._log(
            f"model: {trained:,} of {everything:,} parameters are trained, {precision} on {world.size} x "
            f"{effective.device}, batch {shape.per_device} x {shape.accumulation} x {world.size}"
        )

    def _begin_tracking(self, data: TrainingData) -> None:
        settings = self.settings
        if not self._world.main:
            return
        if settings.remote:
            self.uploader = remote.Uploader(settings.remote, self.progress.notice)
        plan = tracking_settings(settings)
        if plan is not None:
            self.tracker = Tracker(plan)
            self.tracker.start()


def tracking_settings(settings: Settings) -> TrackingSettings | None:
    """Where this job logs to: the operator's run, else the spec's section, else nowhere."""
    job, spec = settings.job, settings.resolved.spec
    given, tracked = spec.tracking, job.tracked_run
    uri = given.mlflow_server_uri if given else (tracked.uri if tracked else os.environ.get(constants.ENV_MLFLOW_URI))
    if not uri:
        return None
    run_id = os.environ.get(constants.ENV_MLFLOW_RUN_ID) or (tracked.run_id if tracked else None)
    return TrackingSettings(
        uri=uri,
        experiment=given.experiment_name if given else None,
        experiment_id=tracked.experiment_id if tracked else None,
        run_id=run_id or (given.run_id if given else None),
        run_name=(given.run_name if given else None) or job.name,
        job_uid=job.uid,
        tags={
            TAG_JOB_UID: job.uid,
            "finetune-operator.io/job": job.name,
            "finetune-operator.io/namespace": job.namespace,
        },
        params=tracked_params(spec.to_dict()) | {"effective_learning_rate": str(settings.optimizer.learning_rate)},
        artifacts=bool(given) and given.hf_mlflow_log_artifacts.lower() in ("true", "1"),
    )


def memory_advice(per_device: int, settings: Settings, error: str) -> str:
    """What to turn down, and to what, keeping the total batch."""
    first = error.splitlines()[0][:300]
    if per_device > 1:
        cure = (
            f"lower batchsize_conf.max_per_device_train_batch_size from {per_device} to {per_device // 2} "
            "(the total batch stays the same, by accumulation)"
        )
        if not settings.model.gradient_checkpointing:
            cure += " or set training_args.gradient_checkpointing: true"
    elif not settings.model.gradient_checkpointing:
        cure = "set training_args.gradient_checkpointing: true"
    elif not settings.adapter.used:
        cure = "train an adapter (peft_conf.peft_type: LORA) instead of all weights, or use a GPU with more memory"
    else:
        cure = "lower sft_args.max_seq_length, or use a GPU with more memory"
    return f"the GPU's memory did not suffice for a per-device batch of {per_device}: {cure}. ({first})"
