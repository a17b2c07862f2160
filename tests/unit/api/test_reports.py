"""What pods say: JSON that fits a termination message, and configurations that survive the round trip."""

import json
from typing import Any

import pytest

from finetune_api.constants import TERMINATION_LOG_LIMIT
from finetune_api.job_config import JobConfig, TrackedRun
from finetune_api.report import ProgressReport, TerminationReport
from finetune_api.resolve import resolve
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import (
    CheckpointReport,
    DatasetReport,
    EffectiveSettings,
    FineTuneJobStatus,
    MemoryEstimate,
    Progress,
)


def test_a_report_is_camel_case_without_what_is_unknown() -> None:
    report = TerminationReport(reason="Completed", exit_code=0, total_steps=5, eval_loss=1.5)
    assert json.loads(report.to_message()) == {
        "reason": "Completed",
        "message": "",
        "exitCode": 0,
        "totalSteps": 5,
        "evalLoss": 1.5,
    }
    assert TerminationReport.from_message(report.to_message()) == report


@pytest.mark.parametrize("filler", ["x", "ü", "\n"])
def test_a_report_always_fits(filler: str) -> None:
    report = TerminationReport(
        reason="BadData",
        message=filler * 9000,
        exit_code=65,
        step=7,
        notices=[filler * 500] * 20,
        checkpoints=[CheckpointReport(step=step, path="/workdir/" + "c" * 100) for step in range(100)],
    )
    text = report.to_message()
    assert len(text.encode()) <= TERMINATION_LOG_LIMIT
    read = TerminationReport.from_message(text)
    assert read is not None
    assert (read.reason, read.exit_code, read.step) == ("BadData", 65, 7)
    assert read.message


def test_many_notices_never_cost_the_account() -> None:
    """What the download found in the data stands in status whatever else there was to say."""
    dataset = DatasetReport(
        **dict.fromkeys(DatasetReport.model_fields.keys() - {"memory", "pad_share"}, 10**12),
        pad_share=0.1234,
        memory=MemoryEstimate(**dict.fromkeys(MemoryEstimate.model_fields, 10**12)),
    )
    effective = EffectiveSettings(learning_rate=1e-5, distributed_type="auto-deepspeed-stage3", warmup_steps=10**9)
    report = TerminationReport(
        reason="Completed",
        message="m" * 2000,
        exit_code=0,
        dataset=dataset,
        effective=effective,
        notices=["n" * 400] * 32,
    )
    text = report.to_message()
    assert len(text.encode()) <= TERMINATION_LOG_LIMIT
    read = TerminationReport.from_message(text)
    assert read is not None
    assert (read.dataset, read.effective) == (dataset, effective)
    assert read.notices


def test_the_newest_checkpoints_are_kept() -> None:
    report = TerminationReport(checkpoints=[CheckpointReport(step=n, path="p" * 200) for n in range(40)])
    read = TerminationReport.from_message(report.to_message())
    assert read is not None
    assert read.checkpoints
    assert read.checkpoints[-1].step == 39


@pytest.mark.parametrize("text", [None, "", "Traceback (most recent call last)", '{"reason": "Comp'])
def test_what_is_no_report_is_none(text: str | None) -> None:
    assert TerminationReport.from_message(text) is None


def test_reports_of_other_versions_are_read() -> None:
    read = ProgressReport.model_validate({"step": 3, "newKey": 1})
    assert read.step == 3


def test_status_reads_both_spellings() -> None:
    status = FineTuneJobStatus(phase="Training", progress=Progress(total_steps=9))
    assert status.to_dict() == {"phase": "Training", "progress": {"totalSteps": 9}}
    assert FineTuneJobStatus.model_validate(status.to_dict()) == status


def test_job_config_round_trip(spec: dict[str, Any]) -> None:
    resolved = resolve(FineTuneJobSpec.model_validate({**spec, "num_train_epochs": 2}))
    config = JobConfig(
        name="job",
        namespace="ns",
        uid="u",
        try_number=2,
        spec=resolved.spec.to_dict(),
        tracked_run=TrackedRun(uri="http://m", experiment_id="1", run_id="r"),
        notices=["said once"],
    )
    read = JobConfig.from_json(config.to_json())
    assert read == config
    assert read.parsed_spec() == resolved.spec
    assert json.loads(config.to_json())["tryNumber"] == 2


def test_job_config_is_deterministic(spec: dict[str, Any]) -> None:
    backwards = dict(reversed(list(spec.items())))
    texts = {
        JobConfig(name="job", spec=resolve(FineTuneJobSpec.model_validate(one)).spec.to_dict()).to_json()
        for one in (spec, backwards)
    }
    assert len(texts) == 1
