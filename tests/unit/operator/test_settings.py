"""The environment of the operator: read whole, or refused with the variable's name."""

import pytest

from finetune_operator.settings import SettingsError, load


def test_defaults_need_no_environment():
    settings = load({})
    assert settings.progress_seconds == 15
    assert settings.retry_seconds == 10
    assert settings.watch_namespace == ""


def test_links_fall_back_to_the_servers_own_address():
    settings = load({"FINETUNE_MLFLOW_URI": "http://mlflow:5000/"})
    assert settings.mlflow_uri == settings.mlflow_public_url == "http://mlflow:5000"


def test_accelerators_map_to_node_labels():
    settings = load({"FINETUNE_ACCELERATOR_LABELS": '{"H100": {"gpu": "h100"}}'})
    assert settings.accelerator_labels["H100"] == {"gpu": "h100"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FINETUNE_PROGRESS_SECONDS", "soon"),
        ("FINETUNE_MAX_GPUS_PER_NODE", "0"),
        ("FINETUNE_ACCELERATOR_LABELS", "{"),
        ("FINETUNE_ACCELERATOR_LABELS", '{"H100": 3}'),
        ("FINETUNE_LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=name):
        load({name: value})
