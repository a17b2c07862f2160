"""The demo's steps up to the applied job: cluster, base model and data, operator, bucket, FineTuneJob.

Making the base model needs the processor and starting the cluster mostly waits, so the two run side by side.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from typing import TYPE_CHECKING

from finetune_cli import demo_places as places
from finetune_cli.errors import CliError
from finetune_cli.watch import outcome

if TYPE_CHECKING:
    from finetune_cli.demo_cluster import Cluster
    from finetune_cli.steps import Step, Steps


def sources_digest() -> str:
    """Changes when the operator's code does."""
    digest = hashlib.sha256()
    for folder in places.OPERATOR_SOURCES:
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


class Preparation:
    """Brings a cluster to where the demo's job trains, from whatever state it is in."""

    def __init__(self, cluster: Cluster, files: places.Files, helm_values: list[str]) -> None:
        self.cluster = cluster
        self.files = files
        self.helm_values = helm_values

    def run(self, steps: Steps) -> str:
        """Do all of it; the name of the job that now trains. Raises CliError."""
        stop = self.cluster.commands.stop
        steps.side_by_side(
            lambda: self._cluster_and_operator(steps), lambda: self._model_and_data(steps), on_failure=stop
        )
        steps.side_by_side(lambda: self._fill_bucket(steps), lambda: self._wait_for_operator(steps), on_failure=stop)
        with steps.step(f"Apply {places.MANIFEST}") as step:
            name = self._apply_job(step)
            step.detail = f"finetunejob/{name}"
        return name

    # -- the local cluster and what runs in it

    def _cluster_and_operator(self, steps: Steps) -> None:
        cluster = self.cluster
        if cluster.is_local:
            with steps.step("Start the local cluster") as step:
                command = [str(places.LOCALCLUSTER), "up", "--dir", str(cluster.directory)]
                cluster.commands.stream(step, "localcluster", command)
                step.detail = f"kubeconfig {places.LOCAL_DIRECTORY / 'kubeconfig'}"
        else:
            with steps.step("Reach the cluster of the kubeconfig") as step:
                step.detail = cluster.kubectl("config", "current-context").strip()
                cluster.kubectl("version")
        with steps.step("Install the operator and MLflow with Helm") as step:
            cluster.commands.stream(step, "helm", [*cluster.helm_command, *self._helm_arguments()])
        with steps.step("Start an S3 server in the cluster") as step:
            cluster.kubectl("apply", "-n", places.NAMESPACE, "-f", "examples/bucket")
            cluster.wait_ready(step, places.NAMESPACE, places.BUCKET)

    def _helm_arguments(self) -> list[str]:
        values = ["mlflow.enabled=true", f"settings.progressSeconds={places.PROGRESS_SECONDS}"]
        if self.cluster.is_local:
            # Local pods run the checkout itself: a changed operator has to be started anew.
            values.append(f"podAnnotations.{places.SOURCES_ANNOTATION}=sha-{sources_digest()}")
        sets = [word for value in [*values, *self.helm_values] for word in ("--set", value)]
        chart = "charts/finetune-operator"
        return [
            "upgrade",
            "--install",
            places.RELEASE,
            chart,
            "-n",
            places.OPERATOR_NAMESPACE,
            "--create-namespace",
            *sets,
        ]

    def _wait_for_operator(self, steps: Steps) -> None:
        with steps.step("Wait for the operator and MLflow") as step:
            for deployment in ("finetune-operator", "mlflow"):
                self.cluster.wait_ready(step, places.OPERATOR_NAMESPACE, deployment)

    # -- the base model and the dialogues

    def _model_and_data(self, steps: Steps) -> None:
        python, commands = sys.executable, self.cluster.commands
        with steps.step("Make dialogues from the chatterbot corpus") as step:
            commands.stream(step, "dialogues", [python, "examples/make_dialogues.py", "--out", str(self.files.data)])
        with steps.step("Train a small base model (kept for the next run)") as step:
            commands.stream(step, "base-model", [python, "examples/make_base_model.py", "--out", str(self.files.model)])

    def _fill_bucket(self, steps: Steps) -> None:
        with (
            steps.step("Put base model and data into the bucket") as step,
            self.cluster.reach(places.NAMESPACE, places.BUCKET, places.BUCKET_PORT) as endpoint,
        ):
            command = [sys.executable, "examples/fill_bucket.py", "--endpoint", endpoint]
            command += ["--model", str(self.files.model), "--data", str(self.files.data)]
            self.cluster.commands.stream(step, "fill-bucket", command)
            step.detail = endpoint

    # -- the job

    def _apply_job(self, step: Step) -> str:
        cluster, namespace = self.cluster, places.NAMESPACE
        label = [f"{places.DEMO_LABEL}=true", "-o", "json"]
        labelled = cluster.kubectl("label", "--local", "-f", str(places.MANIFEST), *label)
        name: str = json.loads(labelled)["metadata"]["name"]
        previous = cluster.get("finetunejob", name, "-n", namespace)
        if previous and places.DEMO_LABEL not in (previous["metadata"].get("labels") or {}):
            raise CliError(
                f"namespace {namespace} has a FineTuneJob {name} that the demo did not make; it is left alone."
                f" Delete it (kubectl delete ftj {name} -n {namespace}) or take its progress: finetune watch {name}"
            )
        if previous and outcome(previous.get("status") or {}):
            step.detail = "removing the finished job of the run before"
            cluster.kubectl("delete", "finetunejob", name, "-n", namespace, "--cascade=foreground", "--timeout=60s")
            self._remove_volume(name)
        cluster.kubectl("apply", "-n", namespace, "-f", "-", input=labelled)
        return name

    def _remove_volume(self, name: str) -> None:
        """The job's volume outlives the job; the next run of the demo starts with an empty one."""
        claim = f"{name}-checkpoints"
        self.cluster.kubectl("delete", "pvc", claim, "-n", places.NAMESPACE, "--ignore-not-found", "--timeout=60s")

    # -- the way back

    def start_over(self, steps: Steps) -> None:
        """Remove what earlier runs left in the cluster and in the cache."""
        with steps.step("Remove what earlier runs left"):
            shutil.rmtree(self.files.cache, ignore_errors=True)
            if self.cluster.is_local:
                if places.LOCAL_DIRECTORY.exists():
                    self.cluster.commands.output(
                        [str(places.LOCALCLUSTER), "down", "--purge", "--dir", str(self.cluster.directory)]
                    )
            else:
                self._remove_objects()

    def remove(self, steps: Steps) -> None:
        """Remove all that the demo made, and stop the local cluster."""
        with steps.step("Remove what the demo made"):
            self._remove_objects()
            if self.cluster.is_local:
                self.cluster.commands.output([str(places.LOCALCLUSTER), "down", "--dir", str(self.cluster.directory)])

    def _remove_objects(self) -> None:
        cluster, namespace = self.cluster, places.NAMESPACE
        if cluster.get("crd", "finetunejobs.finetune-operator.io"):
            made = ["-n", namespace, "-l", f"{places.DEMO_LABEL}=true"]
            names = cluster.kubectl("get", "finetunejob", *made, "-o", "jsonpath={.items[*].metadata.name}").split()
            cluster.kubectl("delete", "finetunejob", *made, "--cascade=foreground", "--timeout=60s")
            for name in names:
                self._remove_volume(name)
        cluster.kubectl("delete", "-n", namespace, "-f", "examples/bucket", "--ignore-not-found", "--timeout=60s")
        helm = [
            *cluster.helm_command,
            "uninstall",
            places.RELEASE,
            "-n",
            places.OPERATOR_NAMESPACE,
            "--ignore-not-found",
        ]
        cluster.commands.output(helm)
