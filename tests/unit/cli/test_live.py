"""The view of a running job: every change once, nothing that a pipe cannot show, conditions that matter."""

import pytest

from finetune_cli.live import PlainView, noteworthy_conditions, progress_text, sparkline


def condition(kind, status="True", reason="Because", message="words"):
    return {"type": kind, "status": status, "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        ({}, ""),
        ({"step": 3, "totalSteps": 10, "percent": 30.0}, "step 3/10 (30%)"),
        (
            {"loss": 2.5, "firstLoss": 6.0, "learningRate": 2e-5, "tokensPerSecond": 1234.5, "etaSeconds": 75},
            "loss 2.5000 (first 6.0000)  lr 2.00e-05  1,234 tokens/s  ETA 1m15s",
        ),
    ],
)
def test_progress_in_words(progress, text):
    assert progress_text(progress) == text


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        ({}, []),
        ({"conditions": [condition("Ready", "False"), condition("Complete")]}, []),
        ({"conditions": [condition("Reconciling")]}, ["Because: words"]),
        ({"conditions": [condition("Reconciling")], "progress": {"step": 1}}, []),
        ({"conditions": [condition("Stalled"), condition("Failed")]}, ["Because: words"]),
        (
            {"conditions": [condition("MLflowUnavailable", message="no answer")], "progress": {"step": 1}},
            ["Because: no answer"],
        ),
    ],
)
def test_conditions_worth_reading(status, lines):
    assert noteworthy_conditions(status) == lines


def test_plain_view_says_each_change_once_without_escape_codes(capsys):
    view = PlainView()
    waiting = {"phase": "Pending", "conditions": [condition("Reconciling", message="no node fits")]}
    training = {"phase": "Training", "progress": {"step": 1, "totalSteps": 2}}
    for status in (waiting, waiting, training, training):
        view.update(status)
    output = capsys.readouterr().out
    assert [line.partition(" ")[2] for line in output.splitlines()] == [
        "Pending",
        "Because: no node fits",
        "Training  step 1/2",
    ]
    assert "\x1b" not in output


@pytest.mark.parametrize(
    ("values", "blocks"), [([], ""), ([1.0], ""), ([2.0, 1.0], "█▁"), ([1.0, 1.0], "▁▁"), ([3, 3, 2, 2, 1, 1], "█▅▁")]
)
def test_sparkline(values, blocks):
    assert sparkline(values, width=3) == blocks or (len(values) <= 3 and sparkline(values) == blocks)
