"""Canaries in every place that a secret comes from: none is found in anything that a download or a training leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_api import constants

CANARIES = {
    "AWS_ACCESS_KEY_ID": "CANARY-access-key-id",
    "AWS_SECRET_ACCESS_KEY": "CANARY/secret+access/key",
    "HF_TOKEN": "hf_CANARYtoken",
    "DATABASE_PASSWORD": 'CANARY "pass"\\word',
    "MLFLOW_TRACKING_PASSWORD": "CANARY-mlflow-word",
    "HTTPS_PROXY": "http://me:CANARY-proxy-word@127.0.0.1:9",
}
NAMED = {constants.ENV_SECRETS: "DATABASE_PASSWORD,HTTPS_PROXY"}


def canaries_in(*places: Path) -> list[str]:
    """Files below the places that hold a canary in any spelling, and which."""
    found = []
    for place in places:
        for path in [place, *place.rglob("*")]:
            if path.is_file() and b"CANARY" in path.read_bytes():
                found.append(str(path))
    return found


def test_a_training_tells_none(launch: Any, make_config: Any, tmp_path: Path) -> None:
    tracking = {
        "mlflow_server_uri": f"{tmp_path}/mlruns",
        "experiment_name": "e",
        "hf_mlflow_log_artifacts": "True",
    }
    config = make_config(training_args={"max_steps": 2, "save_steps": 1}, spec={"tracking": tracking})
    run = launch(config, **CANARIES, **NAMED, PYTHONFAULTHANDLER="1")
    assert run.wait() == 0, run.text
    assert list((tmp_path / "mlruns").rglob("params"))
    assert canaries_in(run.work, run.log, run.message, tmp_path) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"basemodel": "s3://bucket/model", "bucketStorageHost": "http://127.0.0.1:9"},
        {"basemodel": "hf://org/model"},
    ],
    ids=["s3", "hf"],
)
def test_a_failing_download_tells_none(make_config: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = make_config(spec=changes)
    (tmp_path / "job.json").write_text(config.to_json())
    left = tmp_path / "left"
    left.mkdir()
    script = (
        "import sys\n"
        "from finetune_trainer import transfer, download\n"
        "transfer.RETRY_SECONDS = 0\n"
        "import finetune_trainer.model_cache as cache\n"
        "real = download.bring_inputs\n"
        "def failing(*args, **kwargs):\n"
        "    import os\n"
        "    try: real(*args, **kwargs)\n"
        "    except Exception as error:\n"
        "        told = {name: os.environ[name] for name in " + repr(list(CANARIES)) + "}\n"
        "        raise RuntimeError(f'{error}; a library that prints its settings: {told}') from error\n"
        "download.bring_inputs = failing\n"
        "sys.exit(download.main())\n"
    )
    environment = {
        **os.environ,
        **CANARIES,
        **NAMED,
        "NO_PROXY": "127.0.0.1",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "0",
        constants.ENV_CONFIG: str(tmp_path / "job.json"),
        constants.ENV_WORK_DIR: str(left / "work"),
        constants.ENV_MODEL_CACHE_DIR: str(left / "cache"),
        constants.ENV_TERMINATION_LOG: str(left / "message"),
    }
    with (left / "log").open("w") as log:
        ended = subprocess.run([sys.executable, "-c", script], env=environment, stdout=log, stderr=log, check=False)
    assert ended.returncode == 70
    report = json.loads((left / "message").read_text())
    assert "***" in report["message"]
    assert "a library that prints its settings" in (left / "log").read_text()
    assert canaries_in(left) == []
