"""Copies of checkpoints and of the result in checkpointsRemote, made in the background; the result's before success.

The remote folder mirrors the local one: a checkpoint that retention removes here is removed there too.
"""

import queue
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_api.constants import COMPLETION_MARKER
from finetune_trainer.errors import TrainerError, Unavailable
from finetune_trainer.train import manifest
from finetune_trainer.train.checkpoint_folder import checkpoint_path
from finetune_trainer.transfer import Remote, download_file, download_tree, list_tree, upload_tree, with_scheme


class Uploader:
    """Sends folders in the order they came. A failure is a notice, tried again with the next folder and at the end."""

    def __init__(self, remote: str, notice: Callable[[str], None]) -> None:
        self._remote = with_scheme(remote).rstrip("/")
        self._notice = notice
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._unsent: list[Path] = []
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
        self._thread.start()

    def location(self, name: str) -> str:
        """The remote place of a folder."""
        return f"{self._remote}/{name}"

    def send(self, folder: Path) -> None:
        """Queues a complete folder."""
        self._jobs.put(lambda: self._send_all([*self._unsent, folder]))

    def remove(self, step: int) -> None:
        """Queues the removal of a checkpoint."""
        self._jobs.put(lambda: self._remove(f"checkpoint-{step}"))

    def finish(self, results: list[Path], beat: Callable[[], None] = lambda: None) -> None:
        """Waits for what is queued, then sends the result. Raises Unavailable if anything could not be sent."""
        self.drain(beat)
        for folder in [*self._existing(self._unsent), *results]:
            beat()
            upload_tree(folder, self.location(folder.name))
        self._unsent = []

    def drain(self, beat: Callable[[], None] = lambda: None) -> None:
        """Waits for what is queued."""
        self._jobs.put(None)
        while self._thread.is_alive():
            self._thread.join(1.0)
            beat()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _existing(self, folders: list[Path]) -> list[Path]:
        return [folder for folder in folders if (folder / COMPLETION_MARKER).is_file()]

    def _send_all(self, folders: list[Path]) -> None:
        self._unsent = []
        for folder in self._existing(folders):
            try:
                upload_tree(folder, self.location(folder.name))
            except (TrainerError, OSError) as error:
                if (folder / COMPLETION_MARKER).is_file():  # else retention removed it meanwhile
                    self._unsent.append(folder)
                    self._notice(f"{folder.name} was not copied to {self._remote} yet: {error}")

    def _remove(self, name: str) -> None:
        try:
            target = Remote(self.location(name))
            if target.fs.exists(target.path):
                target.call(lambda: target.fs.rm(target.path, recursive=True), writing=True)
        except (TrainerError, OSError) as error:
            self._notice(f"{self.location(name)} was not removed: {error}")


def fetch_newest(remote: str, folder: Path, job_uid: str | None = None) -> Path | None:
    """Brings the newest complete checkpoint of a remote store into `folder`; None without one. Raises TrainerErrors.

    job_uid: only of this job.
    """
    steps = _steps(remote)
    if job_uid is not None:
        steps = [step for step in steps if _facts(remote, step, folder).get("jobUid") == job_uid]
    for step in steps:
        if (found := _fetch(remote, folder, step)) is not None:
            return found
    if steps:
        raise Unavailable(f"the checkpoints in {remote} are all incomplete or damaged")
    return None


def only_there(remote: str, folder: Path, job_uid: str) -> dict[int, float | None]:
    """The checkpoints of a job that the remote store has and the folder lacks, with their validation losses: those of
    a volume that is gone. Raises TrainerErrors."""
    missing = [step for step in _steps(remote) if not checkpoint_path(folder, step).is_dir()]
    facts = {step: _facts(remote, step, folder) for step in missing}
    return {step: known.get("evalLoss") for step, known in facts.items() if known.get("jobUid") == job_uid}


def _steps(remote: str) -> list[int]:
    """The steps of the checkpoints that are complete there, the newest first."""
    names = {path.partition("/")[0] for path in list_tree(remote) if path.endswith(f"/{COMPLETION_MARKER}")}
    numbers = (name.removeprefix("checkpoint-") for name in names)
    return sorted((int(number) for number in numbers if number.isdigit()), reverse=True)


def fetch_step(remote: str, folder: Path, step: int) -> Path | None:
    """Brings the checkpoint of one step; None if it is not there, or damaged. Raises TrainerErrors."""
    name = checkpoint_path(folder, step).name
    if f"{name}/{COMPLETION_MARKER}" not in list_tree(remote):
        return None
    return _fetch(remote, folder, step)


def _fetch(remote: str, folder: Path, step: int) -> Path | None:
    """Brings a checkpoint into the folder of checkpoints, whole or not at all; None if it is damaged."""
    target = checkpoint_path(folder, step)
    aside = folder / f"{manifest.ASIDE}remote-{target.name}"
    shutil.rmtree(aside, ignore_errors=True)
    download_tree(f"{remote.rstrip('/')}/{target.name}", aside)
    if manifest.fault(aside) is not None:
        shutil.rmtree(aside, ignore_errors=True)
        return None
    if target.exists():
        shutil.rmtree(target)  # an incomplete one: a complete one would have been taken before
    aside.rename(target)
    manifest.sync_folder(folder)
    return target


def _facts(remote: str, step: int, folder: Path) -> dict[str, Any]:
    """What the marker of a remote checkpoint says."""
    name = checkpoint_path(folder, step).name
    aside = folder / f"{manifest.ASIDE}facts-{name}"
    aside.mkdir(parents=True, exist_ok=True)
    try:
        download_file(f"{remote.rstrip('/')}/{name}/{COMPLETION_MARKER}", aside / COMPLETION_MARKER)
        return manifest.read_facts(aside) or {}
    finally:
        shutil.rmtree(aside, ignore_errors=True)
