"""Precision: what the device has, and what becomes of a run whose numbers fp16 cannot hold (document 002).

No GPU is needed: autocast and the gradient scaler do fp16 on CPU too, where a job would never choose it.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import BadConfiguration, TrainerError


@pytest.mark.parametrize(
    ("wanted", "device", "bf16", "chosen"),
    [
        ("auto", "cpu", True, "fp32"),
        ("auto", "cuda", True, "bf16"),
        ("auto", "cuda", False, "fp16"),
        ("bf16", "cpu", False, "bf16"),
        ("fp16", "cuda", True, "fp16"),
        ("fp32", "cuda", True, "fp32"),
        ("fp16", "cpu", True, "fp16 needs a GPU"),
        ("bf16", "cuda", False, "cannot compute in bf16"),
    ],
)
def test_precision_by_device(
    monkeypatch: pytest.MonkeyPatch, wanted: str, device: str, bf16: bool, chosen: str
) -> None:
    import torch

    from finetune_trainer.train.distributed import choose_precision

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    if " " not in chosen:
        assert choose_precision(wanted, torch.device(device)) == chosen
        return
    with pytest.raises(BadConfiguration, match=chosen):
        choose_precision(wanted, torch.device(device))


@pytest.mark.parametrize(
    ("spec", "precision"),
    [
        ({}, "auto"),
        ({"training_args": {"bf16": True}}, "bf16"),
        ({"overrides": {"auto": ["precision"]}, "run_conf": {"model_args": {"torch_dtype": "float32"}}}, "auto"),
        ({"run_conf": {"model_args": {"torch_dtype": "float32"}}}, "fp32"),
    ],
)
def test_what_leaves_the_precision_to_the_device(make_config: Any, spec: dict[str, Any], precision: str) -> None:
    from finetune_trainer.train.settings import read_settings, read_spec

    job = make_config(spec=spec)
    assert read_settings(job, read_spec(job)).precision == precision


@pytest.fixture
def half_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU without bf16: an automatic precision is fp16."""
    monkeypatch.setattr("finetune_trainer.train.run.choose_precision", lambda wanted, device: "fp16")


@pytest.fixture
def huge_model(base_model: Path, tmp_path: Path) -> Path:
    """The small model with activations beyond 65504 in its layers; norms bring them back before the loss."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "huge"
    shutil.copytree(base_model, folder)
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if "down_proj" in name:
            weights[name] *= 1e7
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_half_precision_trains_like_the_whole(train_here: Any, make_config: Any, half_here: None) -> None:
    half = train_here(make_config(per_device=4, training_args={"max_steps": 4}))
    assert half.report.effective.precision == "fp16"
    whole = {1: 5.829485, 2: 5.637970, 3: 5.492089, 4: 5.403012}
    assert half.losses == pytest.approx(whole, rel=1e-3)
    assert half.losses != pytest.approx(whole, rel=1e-7), "nothing was computed in fp16"


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_model_that_fp16_cannot_hold_is_trained_in_fp32(
    train_here: Any, make_config: Any, huge_model: Path, request: pytest.FixtureRequest, lora: bool
) -> None:
    config = make_config(model=huge_model, lora=lora, training_args={"max_steps": 5, "save_steps": 1})
    whole = train_here(config)
    assert all(math.isfinite(loss) for loss in whole.losses.values())
    request.getfixturevalue("half_here")
    run = train_here(config)
    assert run.report.effective.precision == "fp32"
    assert any("not usable in fp16 after step 0: the run goes on in fp32" in notice for notice in run.notices)
    assert run.losses == whole.losses, "the first steps in fp16 left something behind"


BREAKS: dict[str, Any] = {"nan": math.nan, "inf": math.inf, "zero": 0.0}


@pytest.fixture
def overflow_after(monkeypatch: pytest.MonkeyPatch) -> Any:
    """overflow_after(batches, factor, count): in fp16 the raw loss of `count` micro-batches after the first so many is
    multiplied by the factor."""

    def arm(batches: int, factor: float, count: int = 1000) -> None:
        import torch

        from finetune_trainer.train.objective import LanguageModelling, Sums

        original, seen = LanguageModelling.sums, [0]

        def broken(self: Any, model: Any, batch: Any, *, training: bool) -> Sums:
            sums = original(self, model, batch, training=training)
            if not training or not torch.is_autocast_enabled("cpu"):
                return sums
            seen[0] += 1
            return Sums(sums.loss * factor) if batches < seen[0] <= batches + count else sums

        monkeypatch.setattr(LanguageModelling, "sums", broken)

    return arm


def test_the_model_of_fp16_leaves_memory_before_the_one_of_fp32_comes(
    train_here: Any, make_config: Any, half_here: None, overflow_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weakref

    from finetune_trainer.train import model as models

    load, loaded = models.load_model, []

    def watched(*args: Any, **kwargs: Any) -> Any:
        assert [one for one in loaded if one() is not None] == [], "two models at once"
        model = load(*args, **kwargs)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(models, "load_model", watched)
    overflow_after(3, math.nan)
    run = train_here(make_config(lora=True, training_args={"max_steps": 6, "save_steps": 1}))
    assert run.report.effective.precision == "fp32"
    assert len(loaded) == 2


@pytest.mark.parametrize("kind", BREAKS)
def test_an_overflow_in_the_middle_goes_on_from_the_last_good_checkpoint(
    train_here: Any, make_config: Any, half_here: None, overflow_after: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Six good steps with checkpoints at 2, 4 and 6, and one at 8, whose loss is none."""
    config = make_config(per_device=4, training_args={"save_steps": 2, "max_steps": 10})
    good = train_here(config, stop_after=6)
    overflow_after(11, BREAKS[kind])  # 2 a step, and 1 of the short step that ends the epoch
    run = train_here(config)
    assert any("not usable in fp16 after step 6" in notice for notice in run.notices)
    assert run.report.resumed_from_step == 6
    assert json.loads((run.work / "records" / "found.json").read_text())["precision"] == "fp32"

    # An attempt in fp32 on a checkpoint of fp16 is the reference.
    monkeypatch.setattr("finetune_trainer.train.run.choose_precision", lambda wanted, device: "fp32")
    reference = train_here(config, work=good.work)
    assert run.losses == reference.losses
    assert all(math.isfinite(loss) and loss > 0 for loss in run.losses.values())


def test_a_later_attempt_begins_in_fp32(
    train_here: Any, make_config: Any, half_here: None, overflow_after: Any
) -> None:
    overflow_after(2, math.nan)
    config = make_config(training_args={"max_steps": 6})
    first = train_here(config, stop_after=5)
    assert first.report.effective.precision == "fp32"
    second = train_here(config, work=first.work)
    assert second.report.effective.precision == "fp32"
    assert not any("not usable in fp16" in notice for notice in second.notices)


def test_a_run_that_is_shorter_than_the_patience_with_it(
    train_here: Any, make_config: Any, half_here: None, overflow_after: Any
) -> None:
    overflow_after(0, math.nan)
    run = train_here(make_config(training_args={"max_steps": 1}))
    assert (run.report.effective.precision, run.losses) == ("fp32", {1: pytest.approx(5.829485)})


def test_a_single_bad_step_is_skipped(train_here: Any, make_config: Any, half_here: None, overflow_after: Any) -> None:
    overflow_after(3, math.inf, count=2)
    run = train_here(make_config(training_args={"max_steps": 7}))
    assert run.report.effective.precision == "fp16"
    assert [step for step, loss in run.losses.items() if not math.isfinite(loss)] == [4, 5]
    assert run.losses[7] < run.losses[3]


def test_an_explicit_precision_fails_and_names_the_way_out(
    train_here: Any, make_config: Any, half_here: None, overflow_after: Any
) -> None:
    overflow_after(1, math.nan)
    config = make_config(spec={"run_conf": {"model_args": {"torch_dtype": "float32"}}})  # not left to the device
    with pytest.raises(TrainerError, match=r"loss was nan in the 3 steps up to step 4.*training_args.bf16"):
        train_here(config)


def test_bf16_works_on_cpu(train_here: Any, make_config: Any) -> None:
    run = train_here(make_config(training_args={"bf16": True, "max_steps": 4}))
    assert run.report.effective.precision == "bf16"
    assert run.losses == pytest.approx({1: 5.829485, 2: 5.637970, 3: 5.492089, 4: 5.403012}, rel=1e-2)
