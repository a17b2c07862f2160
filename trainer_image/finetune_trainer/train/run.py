"""A job's training, top to bottom: data, model, adapter, resume, train, export, upload. Every rank runs it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from finetune_api.batch import BatchPlan
from finetune_api.sharding import sharding_of
from finetune_api.status import EffectiveSettings
from finetune_trainer.adapter_source import check_new_tokens
from finetune_trainer.data import PreparedTokenizer, TrainingData, load_training_data, padded_length, prepare_tokenizer
from finetune_trainer.errors import BadConfiguration, Interrupted, OutOfMemory
from finetune_trainer.positions import LENGTH_KEY, check_positions, virtual_tokens
from finetune_trainer.remote_code import trusts_tokenizer
from finetune_trainer.steps import plan_steps, warmup_steps
from finetune_trainer.tokenizer_source import tokenizer_directory
from finetune_trainer.train import adapters, checkpoint, export, remote, result
from finetune_trainer.train import model as models
from finetune_trainer.train.adapter_steps import adapter_steps
from finetune_trainer.train.advice import (
    evaluation_advice,
    export_advice,
    is_out_of_memory,
    memory_advice,
    model_advice,
    volume_named,
)
from finetune_trainer.train.auto import Search, plan_with, rate_with
from finetune_trainer.train.checkpoint import TrainerState
from finetune_trainer.train.console import logger
from finetune_trainer.train.distributed import World, choose_precision, device_name, release_memory, start_world
from finetune_trainer.train.found import Found, load_found, save_found
from finetune_trainer.train.fresh_model import check_vocabulary
from finetune_trainer.train.keeping import Keeper
from finetune_trainer.train.loop import Loop, Overflowed, Parts, Reporting
from finetune_trainer.train.neftune import add_noise
from finetune_trainer.train.optimizer import build_optimizer, build_schedule, restore_schedule
from finetune_trainer.train.progress import Progress
from finetune_trainer.train.sampler import BatchShape
from finetune_trainer.train.samples import Sampler
from finetune_trainer.train.seeding import seed_all, seed_for
from finetune_trainer.train.settings import ModelSettings, Settings
from finetune_trainer.train.sharding import Layout, layout_of
from finetune_trainer.train.stopping import Stop
from finetune_trainer.train.task import Task, make_task
from finetune_trainer.train.tracking import Tracker, tracking_settings


@dataclass
class Loaded:
    """What the first stages bring: data, tokenizer, model with adapter, whether the vocabulary grew, and what is to be
    learnt."""

    tokenizer: PreparedTokenizer
    data: TrainingData
    model: Any
    vocabulary_grew: bool
    task: Task


class Run:
    """One attempt at a job, on one rank."""

    def __init__(self, settings: Settings, progress: Progress, stop: Stop) -> None:
        self.settings = settings
        self.progress = progress
        self.stop = stop
        self.tracker: Tracker | None = None
        self.uploader: remote.Uploader | None = None
        self.world: World | None = None
        self._keeper: Keeper
        self._layout: Layout
        self._precision = "fp32"
        self._found = Found()
        self._identity: dict[str, Any] = {}
        self.remarks: list[str] = []

    def train(self) -> None:
        """The whole of it. Raises TrainerErrors; Interrupted after what was reached is saved."""
        settings = self.settings
        try:
            with volume_named(settings.places.checkpoints):
                self._train()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory(str(error)) from error

    def _out_of_memory(self, error: str) -> OutOfMemory:
        """With what to turn down. Only where a smaller batch helps the reason is OutOfMemory: the operator may take
        one by itself."""
        settings, report = self.settings, self.progress.report()
        if report.effective is None:
            text = model_advice(settings.adapter.used, settings.model.quantization is not None, error)
            return OutOfMemory(text, reason="ModelTooLarge")
        if report.phase == "exporting":
            return OutOfMemory(export_advice(error), reason="ModelTooLarge")
        plan = plan_with(self._found, settings, self._world.size)
        if report.phase == "evaluating" and plan.eval_per_device > 1:
            return OutOfMemory(evaluation_advice(plan.eval_per_device, error))
        checkpointing, key = settings.model.gradient_checkpointing, LENGTH_KEY[settings.resolved.spec.method]
        data = self.progress.extras.get("dataset")
        longest = data.longest if data is not None else None
        return OutOfMemory(memory_advice(plan.per_device, checkpointing, settings.adapter.used, error, key, longest))

    def _train(self) -> None:
        self.world = start_world(self.settings.use_cpu)
        self._found = self._world.on_main(lambda: load_found(self.settings.places.records, self.settings.job.uid))
        self._set_numerics()
        tokenizer, data = self._load_data()
        self._keeper = Keeper(self.settings, self._world, self.progress, self._identity)
        trained = self._fit(tokenizer, data)
        if trained is None:
            release_memory()  # what is left of the first pass, before the model is loaded a second time
            trained = self._fit(tokenizer, data)
        assert trained is not None, "only fp16 overflows, and the second pass is in fp32"
        loaded, state = trained
        loaded = replace(loaded, model=self._layout.whole(loaded.model))
        self._export(loaded, self._restore_best(loaded.model, state))

    def _fit(self, tokenizer: PreparedTokenizer, data: TrainingData) -> tuple[Loaded, TrainerState] | None:
        """Trains to the end. None if fp16 overflowed and the run shall go on in fp32."""
        self._precision = self._found.precision or choose_precision(self.settings.precision, self._world.device)
        self._layout = self._make_layout()
        model, grew = self._load_model(tokenizer)
        loaded = Loaded(tokenizer, data, model, grew, self._make_task(model, tokenizer, data))
        start = self._keeper.find_start()
        state = self._restore(model, loaded.task, start)
        loop = self._build_loop(loaded, state, start)
        self.stop.at_once = None  # from here on there may be something to save
        try:
            finished = loop.run()
        except Overflowed as overflow:
            if self.settings.precision != "auto":
                raise
            self._fall_back(overflow)
            return None
        if not finished:
            raise Interrupted(self._interrupted_text(state))
        return loaded, state

    def _make_layout(self) -> Layout:
        """What each process keeps of weights and optimizer."""
        resolved = self.settings.resolved
        custom = resolved.spec.custom_accelerate_config
        sharding = sharding_of(resolved.distributed_type, custom, self._world.size)
        return layout_of(sharding, self._world, self._precision)

    def _fall_back(self, overflow: Overflowed) -> None:
        """From fp16 to fp32, for this attempt and later ones, from the newest checkpoint before the overflow."""
        self._keep(replace(self._found, precision="fp32"))
        if self._world.main:
            self.progress.notice(
                f"the loss was not usable in fp16 after step {overflow.good_until}: the run goes on in fp32, which "
                "takes more memory and time, from the newest checkpoint before that"
            )
        self._keeper.drop_after(overflow.good_until)
        self._world.accelerator.free_memory()

    def _keep(self, found: Found) -> None:
        """Writes down what was found, for later attempts."""
        if found != self._found and self._world.main:
            save_found(self.settings.places.records, self.settings.job.uid, found)
        self._found = found

    # --- loading ----------------------------------------------------------------------------------------------------

    def _set_numerics(self) -> None:
        settings = self.settings
        if settings.full_determinism:
            from transformers.trainer_utils import enable_full_determinism

            enable_full_determinism(settings.loop.seed)
        if settings.tf32 is not None and torch.cuda.is_available():
            torch.backends.cuda.matmul.allow_tf32 = settings.tf32
            torch.backends.cudnn.allow_tf32 = settings.tf32

    def _load_data(self) -> tuple[PreparedTokenizer, TrainingData]:
        settings = self.settings
        folder = tokenizer_directory(settings.resolved.spec, settings.places.model, settings.places.work)
        tokenizer = models.load_tokenizer(folder, trusts_tokenizer(settings.resolved.spec))
        prepared = prepare_tokenizer(settings.job, tokenizer)
        data = load_training_data(settings.job, prepared.tokenizer, settings.places.work)
        if self._world.main:
            for notice in data.notices:
                self.progress.notice(notice)
        self.progress.extras["dataset"] = data.report
        self._log(f"data: {len(data.train)} training and {len(data.eval or [])} validation examples")
        self._identity = {
            **settings.identity,
            "the number of training examples": len(data.train),
            "the number of training tokens": data.report.tokens,
        }
        return prepared, data

    def _load_model(self, tokenizer: PreparedTokenizer) -> tuple[Any, bool]:
        """The model with its adapter, and whether its vocabulary grew."""
        settings, world = self.settings, self._world
        check_new_tokens(settings.resolved.spec, tokenizer.added_tokens)
        check_vocabulary(settings.model.hyperparameters, len(tokenizer.tokenizer))
        seed_all(seed_for(settings.loop.seed, "model"))
        model = models.load_model(
            settings.places.model,
            self._model_settings(),
            device=self._layout.loading_device,
            world_size=world.size,
            precision=self._precision,
            trains_all=not settings.adapter.used,
        )
        export.make_saveable(model)
        grew = models.grow_vocabulary(model, len(tokenizer.tokenizer))
        models.save_memory(model, settings.model)
        if settings.adapter.used:
            if grew:
                self._save_new_base(model, tokenizer)
            seed_all(seed_for(settings.loop.seed, "adapter"))
            folder = tokenizer_directory(settings.resolved.spec, settings.places.model, settings.places.work)
            model = adapters.add_adapter(model, settings.adapter, tokenizer.added_tokens > 0, tokenizer=folder)
            if settings.model.gradient_checkpointing:
                model.enable_input_require_grads()
            if settings.resolved.merge_adapter:
                self._check_merge(model)
        models.trainable_in_fp32(model, settings.model.dtype)
        add_noise(model, settings.model.noise)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise BadConfiguration("the adapter leaves every weight frozen; check peft_conf.peft_kwargs")
        return model, grew

    def _model_settings(self) -> ModelSettings:
        """After an overflow of fp16 frozen weights are fp32 too, whatever the checkpoint has."""
        given = self.settings.model
        return replace(given, dtype="float32") if self._found.precision == "fp32" and given.dtype == "auto" else given

    def _check_merge(self, model: Any) -> None:
        if adapters.can_merge(model):
            adapters.check_merge(model)
        elif self._world.main:
            kind = adapters.adapter_type(model)
            self.progress.notice(f"a {kind} adapter cannot be merged into the model: the result is the adapter")

    def _make_task(self, model: Any, tokenizer: PreparedTokenizer, data: TrainingData) -> Task:
        spec = self.settings.resolved.spec
        longest = max(data.report.longest or 0, padded_length(spec) or 0) + virtual_tokens(model)
        for notice in check_positions(adapters.base_of(model).config.to_dict(), longest, spec.method):
            if self._world.main:
                self.progress.notice(notice)
        return make_task(
            self.settings,
            model,
            tokenizer,
            data,
            world=self._world,
            precision=self._precision,
            identity=self._identity,
            beat=self.progress.beat,
        )

    def _save_new_base(self, model: Any, tokenizer: PreparedTokenizer) -> None:
        if not self._world.main:
            return
        target = result.new_base(self.settings)
        self.progress.notice(
            f"the vocabulary grew by {tokenizer.added_tokens} tokens: the adapter's base model is {target}"
        )
        export.export_base(model, tokenizer.tokenizer, target, {"kind": "basemodel"})

    # --- resuming ---------------------------------------------------------------------------------------------------

    def _restore(self, model: Any, task: Task, start: Path | None) -> TrainerState:
        if start is None:
            return TrainerState()
        checkpoint.load_weights(model, start)
        task.objective.load(start)
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

    def _start_helpers(self) -> None:
        """What runs beside training, on rank 0: copies to the remote store, MLflow."""
        settings = self.settings
        if not self._world.main or self.uploader is not None or self.tracker is not None:
            return
        if settings.remote:
            self.uploader = self._keeper.uploader = remote.Uploader(settings.remote, self.progress.notice)
        plan = tracking_settings(settings)
        if plan is not None:
            self.tracker = Tracker(plan)
            self.tracker.start()

    def _build_loop(self, loaded: Loaded, state: TrainerState, start: Path | None) -> Loop:
        world, plain = self._world, loaded.model
        model = self._layout.prepare(plain)
        plan = self._look_for_settings(loaded, model, state)
        settings = self.settings
        self._start_helpers()
        optimizer = self._layout.optimizer(build_optimizer(plain, settings.optimizer))
        scaler = torch.amp.GradScaler(world.device.type) if self._precision == "fp16" else None
        if start is not None:
            self._layout.load_optimizer(start, optimizer, scaler)
        parts = Parts(
            objective=loaded.task.objective,
            model=model,
            plain=plain,
            optimizer=optimizer,
            schedule=None,
            scaler=scaler,
            max_grad_norm=settings.optimizer.max_grad_norm,
            train=loaded.task.train,
            evaluation=loaded.task.evaluation,
            shape=BatchShape(plan.per_device, plan.accumulation, world.size),
            eval_batch_size=plan.eval_per_device,
            world=world,
            precision=self._precision,
        )
        sampler = self._make_sampler(loaded, state)
        reporting = Reporting(
            self.progress,
            self._metrics,
            lambda current: self._keeper.save(parts, current, self._layout),
            self._stopping,
            sampler.write if sampler is not None else None,
        )
        loop = Loop(parts, settings.loop, reporting, state, plan_steps(settings.resolved, len(parts.train)))
        parts.adapter_steps = adapter_steps(plain, loop.total_steps)
        parts.schedule = build_schedule(optimizer, settings.optimizer, loop.total_steps)
        if start is not None:
            restore_schedule(parts.schedule, state.step)
        self._announce(parts, loop, loaded.data)
        return loop

    def _look_for_settings(self, loaded: Loaded, model: Any, state: TrainerState) -> BatchPlan:
        """overrides.auto: what the trainer finds itself, once for all attempts of the job."""
        search = Search(self.settings, self._world, self._precision, model, loaded.model, loaded.task, self.progress)
        found = search.per_device_batch(self._found.or_from(state.found))
        plan = plan_with(found, self.settings, self._world.size)
        # Said before the first of these batches is tried: it may be too large.
        self.progress.update(effective=EffectiveSettings(per_device_batch=plan.per_device))
        found = search.learning_rate(found, BatchShape(plan.per_device, plan.accumulation, self._world.size))
        self._keep(found)
        state.found = found.to_dict()
        rate = rate_with(found, self.settings)
        self.settings = replace(self.settings, optimizer=replace(self.settings.optimizer, learning_rate=rate))
        return plan

    def _make_sampler(self, loaded: Loaded, state: TrainerState) -> Sampler | None:
        """What writes samples at evaluations, on rank 0, if any are wanted."""
        spec = self.settings.resolved.spec
        wanted = spec.evaluation_conf
        if wanted is None or not wanted.sample_prompts or not self._world.main:
            return None
        sampler = Sampler(
            loaded.model,
            loaded.tokenizer,
            wanted.sample_prompts,
            chat=spec.method != "clm",
            max_new_tokens=wanted.sample_max_new_tokens,
            precision=self._precision,
            folder=self.settings.places.records,
            publish=self._publish,
            notice=self.progress.notice,
            beat=self.progress.beat,
        )
        sampler.begin(state.step)
        return sampler

    def _publish(self, path: str, text: str) -> None:
        if self.tracker is not None:
            self.tracker.keep(path, text)

    def _announce(self, parts: Parts, loop: Loop, data: TrainingData) -> None:
        """Says once, in the log and in the status, what came out of the arithmetic."""
        settings, shape = self.settings, parts.shape
        trained, everything = models.count_parameters(parts.plain)
        effective = EffectiveSettings(
            world_size=shape.world_size,
            per_device_batch=shape.per_device,
            accumulation=shape.accumulation,
            eval_per_device_batch=parts.eval_batch_size,
            total_batch=shape.total,
            learning_rate=settings.optimizer.learning_rate,
            precision=self._precision,
            distributed_type=settings.resolved.distributed_type,
            device=device_name(self._world.device),
            trainable_parameters=trained,
            parameters=everything,
            epochs=round(loop.steps.epochs, 4),
            warmup_steps=warmup_steps(settings.optimizer.warmup, loop.total_steps),
        )
        self.progress.update(effective=effective, step=loop.state.step, total_steps=loop.total_steps)
        data.report.steps_per_epoch, data.report.total_steps = loop.steps_per_epoch, loop.total_steps
        self._log(
            f"model: {trained:,} of {everything:,} parameters are trained, {self._precision} on {shape.world_size} x "
            f"{effective.device}"
        )
        self._log(
            f"training: {loop.total_steps} steps ({loop.steps_per_epoch} an epoch) of {shape.total} examples = "
            f"{shape.per_device} x {shape.accumulation} accumulated x {shape.world_size} processes"
        )

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

    def _restore_best(self, model: Any, state: TrainerState) -> TrainerState:
        """Early stopping and load_best_model_at_end: the model of the best evaluation, and where it stands."""
        best = state.best_step
        if state.stopped_early:
            self._remark(
                f"stopped early after step {state.step}: {state.evaluations_without_improvement} evaluations in a row "
                f"brought no improvement on the evaluation loss {state.best_metric}"
            )
        if not self.settings.loop.load_best or best is None or best == state.step:
            return state
        folder = self._keeper.of_step(best)
        if self._world.main or not self._world.lockstep:  # where the weights are split, rank 0 has them whole
            checkpoint.load_weights(model, folder)
        why = "early stopping" if self.settings.loop.patience is not None else "load_best_model_at_end"
        self._remark(f"{why}: the result is that of step {best} (evaluation loss {state.best_metric:.4f})")
        return replace(state, step=best, eval_loss=state.best_metric)

    def _remark(self, text: str) -> None:
        """What the last report says beside its numbers."""
        self.remarks.append(text)
        if self._world.main:
            self.progress.notice(text)

    def _export(self, loaded: Loaded, state: TrainerState) -> None:
        self.progress.update(phase="exporting")
        if self._world.main:
            found = result.write_result(self.settings, loaded.model, loaded.tokenizer, state, loaded.vocabulary_grew)
            self.progress.extras["model"] = found.report
            if self.uploader is not None:
                self.uploader.finish(found.folders, self.progress.beat)
                found.report.remote = self.uploader.location(result.FINAL)
        self._world.barrier()

    @property
    def _world(self) -> World:
        assert self.world is not None
        return self.world

    def _log(self, text: str) -> None:
        if self._world.main:
            logger.info(text)
