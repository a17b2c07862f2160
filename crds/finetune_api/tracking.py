"""tracking: where metrics go."""

from typing import Literal

from pydantic import Field

from finetune_api.base import LocationText, SpecModel, Word


class FinetuningTrackingConfig(SpecModel):
    """MLflow tracking; one run per job, continued by every attempt."""

    mlflow_server_uri: LocationText = Field(description="MLflow server URI. Can be a local path.")
    experiment_name: Word = Field(description="Experiment the run belongs to; made if absent.")
    run_id: Word | None = Field(None, description="Run to go on logging to.")
    run_name: Word | None = Field(None, description="Name of the run. Only without run_id. Default: the job's name.")
    hf_mlflow_log_artifacts: Literal["False", "True", "false", "true", "0", "1"] = Field(
        "False", description="Whether to store the final model among MLflow's artifacts, as text: 'True' or 'False'."
    )
