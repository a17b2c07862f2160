"""`--set`: the notation users know from Helm reaches every key of a spec, or is refused by name."""

import pytest

from finetune_cli.assignments import apply_assignments, parse_assignment
from finetune_cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("num_train_epochs=1", ["num_train_epochs"], 1),
        ("training_args.learning_rate=2e-5", ["training_args", "learning_rate"], 2e-5),
        ("spec.nodes=2", ["nodes"], 2),
        ("data.datasets[0].path=/x=y.jsonl", ["data", "datasets", 0, "path"], "/x=y.jsonl"),
        ('run_conf.revision="1"', ["run_conf", "revision"], "1"),
        (r"labels.example\.com/team=ml", ["labels", "example.com/team"], "ml"),
        ("training_args.save_strategy=no", ["training_args", "save_strategy"], False),
        ("tolerations=[{key: gpu, operator: Exists}]", ["tolerations"], [{"key": "gpu", "operator": "Exists"}]),
        ("tracking=null", ["tracking"], None),
        ("tracking=", ["tracking"], None),
    ],
)
def test_reads_path_and_typed_value(text, path, value):
    assert parse_assignment(text) == (path, value)


@pytest.mark.parametrize("text", ["num_train_epochs", "=1", "a..b=1", "a[x]=1", "a=[1"])
def test_refuses_what_is_no_assignment(text):
    with pytest.raises(UsageError) as refusal:
        parse_assignment(text)
    assert text in str(refusal.value)


@pytest.mark.parametrize(
    ("spec", "texts", "changed"),
    [
        ({"a": 1}, ["a=2", "b.c=3"], {"a": 2, "b": {"c": 3}}),
        ({"a": {"b": 1, "c": 2}}, ["a.b=null"], {"a": {"c": 2}}),
        ({"a": None}, ["a.b=1"], {"a": {"b": 1}}),
        ({"a": [{"p": "x"}]}, ["a[0].p=u", "a[1].p=v"], {"a": [{"p": "u"}, {"p": "v"}]}),
        ({}, ["a[0]=1"], {"a": [1]}),
    ],
)
def test_changes_the_spec(spec, texts, changed):
    apply_assignments(spec, texts)
    assert spec == changed


@pytest.mark.parametrize(
    ("spec", "text", "words"),
    [
        ({"a": 5}, "a.b=1", "a has no keys"),
        ({"a": {"b": 1}}, "a[0]=1", "a is not a list"),
        ({"a": [1]}, "a[3]=1", "a has 1 items"),
    ],
)
def test_refuses_a_path_that_does_not_fit(spec, text, words):
    with pytest.raises(UsageError, match=words.replace("[", r"\[")):
        apply_assignments(spec, [text])
