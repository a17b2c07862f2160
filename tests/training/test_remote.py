"""checkpointsRemote: copies in a real bucket (moto's server), complete or not there, and a start from them alone."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty bucket named checkpoints, and what lies in it."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    store = boto3.resource("s3").Bucket("checkpoints")
    store.create()
    yield store
    store.objects.delete()
    store.delete()


def _folders(bucket: Any) -> set[str]:
    """Folders with a completion marker."""
    keys = [one.key for one in bucket.objects.all()]
    return {key.split("/")[1] for key in keys if key.endswith("/_COMPLETE.json")}


def test_checkpoints_and_result_are_copied_and_pruned_alike(bucket: Any, train_here: Any, make_config: Any) -> None:
    config = make_config(
        lora=True,
        training_args={"max_steps": 6, "save_steps": 2, "save_total_limit": 1},
        spec={"checkpointsRemote": "checkpoints/small"},
    )
    run = train_here(config)
    assert _folders(bucket) == {"checkpoint-6", "checkpoint-final", "checkpoint-final-merged"}
    assert not [one.key for one in bucket.objects.filter(Prefix="small/checkpoint-4")]
    assert run.report.model.remote == "s3://checkpoints/small/checkpoint-final"
    local = {path.name: path.stat().st_size for path in run.final.iterdir()}
    remote = {one.key.split("/")[-1]: one.size for one in bucket.objects.filter(Prefix="small/checkpoint-final/")}
    assert remote == local


def test_a_new_volume_starts_from_the_newest_complete_copy(
    bucket: Any, train_here: Any, make_config: Any, tmp_path: Path
) -> None:
    place = {"checkpointsRemote": "s3://checkpoints/small"}
    config = make_config(training_args={"save_steps": 2}, per_device=2, spec=place)
    whole = train_here(make_config(training_args={"save_steps": 2}, per_device=2))
    first = train_here(config, stop_after=3)
    assert first.error is not None
    bucket.put_object(Key="small/checkpoint-9/model.safetensors", Body=b"an upload that never ended")
    resumed = train_here(config, FINETUNE_RESUME="auto")
    assert resumed.report.resumed_from_step == 3
    assert resumed.losses == whole.losses

    skipping = make_config(training_args={"max_steps": 1}, spec={**place, "debug": {"skip_checkpoint_download": True}})
    assert train_here(skipping, FINETUNE_RESUME="auto").report.resumed_from_step is None


def test_a_later_attempt_never_goes_on_with_what_an_earlier_job_left_in_the_same_place(
    bucket: Any, train_here: Any, make_config: Any
) -> None:
    """A first attempt that died before its first checkpoint leaves nothing of its own; another job's is not taken."""
    place = {"checkpointsRemote": "s3://checkpoints/small"}
    train_here(make_config(training_args={"max_steps": 4}, spec=place, uid="earlier"))
    assert "checkpoint-4" in _folders(bucket)
    config = make_config(training_args={"max_steps": 4}, spec=place, uid="later")
    assert train_here(config, FINETUNE_RESUME="auto").report.resumed_from_step is None
    asked = make_config(
        training_args={"max_steps": 4}, spec={**place, "run_conf": {"resume_from_checkpoint": "auto"}}, uid="third"
    )
    assert train_here(asked).report.resumed_from_step == 4


def test_nothing_is_copied_when_asked_not_to(bucket: Any, train_here: Any, make_config: Any) -> None:
    debug = {"skip_checkpoint_upload": True}
    run = train_here(
        make_config(training_args={"max_steps": 1}, spec={"checkpointsRemote": "checkpoints/small", "debug": debug})
    )
    assert not list(bucket.objects.all())
    assert run.report.model.remote is None


def test_a_bucket_that_is_not_there_fails_only_at_the_end(bucket: Any, train_here: Any, make_config: Any) -> None:
    """Training is worth more than its copies: a checkpoint that cannot be sent is a notice, the result a failure."""
    from finetune_trainer.errors import InputMissing

    config = make_config(training_args={"max_steps": 2}, spec={"checkpointsRemote": "no-such-bucket/small"})
    with pytest.raises(InputMissing, match="no-such-bucket"):
        train_here(config)
