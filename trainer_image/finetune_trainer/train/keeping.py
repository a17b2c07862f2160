"""The checkpoints of a run: where it begins, what is written, what stays, here and in the remote store.

Every rank asks; rank 0 reads and writes while the others wait.
"""

import json
from pathlib import Path
from typing import Any

from finetune_trainer.errors import InputMissing
from finetune_trainer.train import checkpoint, checkpoint_folder, remote
from finetune_trainer.train.checkpoint import TrainerState
from finetune_trainer.train.console import logger
from finetune_trainer.train.distributed import World
from finetune_trainer.train.progress import Progress
from finetune_trainer.train.resume import find_start
from finetune_trainer.train.settings import Settings
from finetune_trainer.train.sharding import Layout
from finetune_trainer.train.stepper import Stepper


class Keeper:
    """identity: what a checkpoint must agree with to be continued. uploader: None until the run has one."""

    def __init__(self, settings: Settings, world: World, progress: Progress, identity: dict[str, Any]) -> None:
        self.uploader: remote.Uploader | None = None
        self._settings = settings
        self._folder = settings.places.checkpoints
        self._world = world
        self._progress = progress
        self._identity = identity
        self._only_remote: dict[int, float | None] = {}  # checkpoints of a volume that is gone, and their losses

    def find_start(self) -> Path | None:
        """The checkpoint to begin with. Raises TrainerErrors."""
        start = self._world.on_main(self._look_for_start)
        return Path(start) if start is not None else None

    def _look_for_start(self) -> Path | None:
        settings = self._settings
        start = find_start(
            self._folder,
            settings.resume,
            job_uid=settings.job.uid,
            identity=json.loads(json.dumps(self._identity)),
            fetch=self._fetch,
            own_only=settings.own_checkpoints_only,
        )
        for notice in start.notices:
            self._progress.notice(notice)
        if settings.remote and start.checkpoint is not None:
            self._only_remote = remote.only_there(settings.remote, self._folder, settings.job.uid)
        return start.checkpoint

    def _fetch(self, job_uid: str | None) -> Path | None:
        spec = self._settings.resolved.spec
        if not spec.checkpoints_remote or (spec.debug and spec.debug.skip_checkpoint_download):
            return None
        return remote.fetch_newest(spec.checkpoints_remote, self._folder, job_uid)

    def save(self, parts: Stepper, state: TrainerState, layout: Layout) -> None:
        """Writes a checkpoint, whole however the weights lie, and removes what retention does not keep."""
        model, optimizer = layout.whole(parts.plain), layout.whole_state(parts.optimizer)
        if self._world.main:
            settings = self._settings
            path = checkpoint.save_checkpoint(
                self._folder,
                model=model,
                optimizer=optimizer,
                scaler=parts.scaler,
                objective=parts.objective,
                state=state,
                facts={"jobUid": settings.job.uid, "attempt": settings.attempt, "identity": self._identity},
            )
            logger.info(f"saved {path.name}")
            if self.uploader is not None:
                self.uploader.send(path)
            for step in self._prune(state):
                self._only_remote.pop(step, None)
                if self.uploader is not None:
                    self.uploader.remove(step)
            self._progress.update(checkpoints=checkpoint_folder.report_checkpoints(self._folder)[-50:])
        self._world.barrier()

    def _prune(self, state: TrainerState) -> list[int]:
        loop = self._settings.loop
        # Not always the newest by its number: one that was damaged may have been skipped, and still lie there.
        keep = {state.step, state.best_step or state.step}
        if loop.keep_best is not None:
            return checkpoint_folder.prune_to_best(self._folder, loop.keep_best, keep, self._only_remote)
        return checkpoint_folder.prune(self._folder, loop.save_total_limit, keep, self._only_remote)

    def drop_after(self, step: int) -> None:
        """Removes every checkpoint of a later step, here and there."""
        for path in checkpoint_folder.complete_checkpoints(self._folder) if self._world.main else ():
            later = checkpoint_folder.step_of(path) or 0
            if later > step:
                checkpoint_folder.remove(path)
                if self.uploader is not None:
                    self.uploader.remove(later)
        self._world.barrier()

    def of_step(self, step: int) -> Path:
        """The folder of a step's checkpoint, brought from the remote store if this volume is a new one. Raises
        TrainerErrors."""
        folder = checkpoint_folder.checkpoint_path(self._folder, step)
        self._world.on_main(lambda: self._bring(folder, step))
        return folder

    def _bring(self, folder: Path, step: int) -> None:
        source = self._settings.resolved.spec.checkpoints_remote
        if not folder.is_dir() and (source is None or remote.fetch_step(source, self._folder, step) is None):
            raise InputMissing(
                f"{folder.name}, which had the best evaluation, is neither in {self._folder} nor in checkpointsRemote; "
                "without training_args.load_best_model_at_end and early stopping the result is the last one"
            )
