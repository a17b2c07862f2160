"""What the demo ends with: losses before and after, where the model lies, what it says now, and what to try next."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

from finetune_cli import demo_places as places
from finetune_cli import terminal
from finetune_cli.errors import CliError
from finetune_cli.live import noteworthy_conditions

if TYPE_CHECKING:
    from finetune_cli.demo_cluster import Cluster
    from finetune_cli.demo_places import Files
    from finetune_cli.steps import Steps

LOG_LINES = 20
PROMPTS = ("What is AI?", "What is a super computer?", "Can you breathe")  # from the training data
MAX_NEW_TOKENS = 48
Answers = dict[str, list[str]]


def ask_models(steps: Steps, cluster: Cluster, files: Files, status: dict[str, Any]) -> Answers:
    """The answers of the base model and of the tuned one, which comes from the bucket, to the same prompts."""
    remote = (status.get("model") or {}).get("remote")
    if not remote:
        raise CliError("the job's status names no model.remote: checkpointsRemote is missing from the manifest")
    tuned = files.cache / "tuned"
    shutil.rmtree(tuned, ignore_errors=True)
    with (
        steps.step("Load the tuned model from the bucket and ask it") as step,
        cluster.reach(places.NAMESPACE, places.BUCKET, places.BUCKET_PORT) as endpoint,
    ):
        request = {
            "download": {"from": remote, "to": str(tuned), "endpoint": endpoint},
            "models": {"base": str(files.model), "tuned": str(tuned)},
            "template": str(tuned),
            "prompts": PROMPTS,
            "maxNewTokens": MAX_NEW_TOKENS,
        }
        step.detail = remote
        command = [sys.executable, "-m", "finetune_cli.generate"]
        answers: Answers = json.loads(cluster.commands.output(command, input=json.dumps(request)))
    return answers


def print_result(
    cluster: Cluster, namespace: str, name: str, status: dict[str, Any], *, answers: Answers, seconds: float
) -> None:
    """The job's result, for people."""
    progress, model = status.get("progress") or {}, status.get("model") or {}
    terminal.say()
    _row("Phase", terminal.styled(str(status.get("phase")), "ok"))
    _row("Loss", f"{terminal.number(progress.get('firstLoss'))} -> {terminal.number(progress.get('loss'))}")
    evaluations = [c["evalLoss"] for c in status.get("checkpoints") or [] if c.get("evalLoss") is not None]
    if progress.get("evalLoss") is not None:
        before = f"{terminal.number(evaluations[0])} -> " if evaluations else ""
        learnt = "on dialogues that it has not seen; this job learns its own by heart"
        _row("Evaluation loss", f"{before}{terminal.number(progress['evalLoss'])} ({learnt})")
    _row("Model", model.get("remote"))
    _row("", f"volume {model.get('claim') or f'{name}-checkpoints'}: {model.get('merged') or model.get('path')}")
    _row("MLflow", _mlflow_page(cluster, status))
    _row("Time", terminal.duration(seconds))
    terminal.say()
    _print_answers(answers)
    terminal.say()
    terminal.say(cluster.kubectl("get", "ftj", name, "-n", namespace).rstrip())


def _row(label: str, value: str | None) -> None:
    terminal.say(f"{terminal.styled(f'{label:16}', 'bold')}{value or '-'}")


def _print_answers(answers: Answers) -> None:
    for index, prompt in enumerate(PROMPTS):
        terminal.say(terminal.styled(f"> {prompt}", "bold"))
        terminal.say(f"  base model:  {_one_line(answers['base'][index])}")
        terminal.say(f"  tuned model: {terminal.styled(_one_line(answers['tuned'][index]), 'ok')}")


def _one_line(text: str, width: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _mlflow_page(cluster: Cluster, status: dict[str, Any]) -> str:
    """Where the run's page opens from this machine, and how to make that possible on a real cluster."""
    run = status.get("mlflow") or {}
    if not run.get("runId"):
        return run.get("message") or "no run was logged"
    path = f"#/experiments/{run.get('experimentId')}/runs/{run['runId']}"
    if cluster.is_local:
        address = cluster.pod_ip(places.OPERATOR_NAMESPACE, "app.kubernetes.io/component=mlflow")
        return f"http://{address}:5000/{path}"
    forward = f"kubectl -n {places.OPERATOR_NAMESPACE} port-forward service/mlflow 5000"
    return f"{forward}, then http://127.0.0.1:5000/{path}"


def print_next_commands(cluster: Cluster, namespace: str, name: str) -> None:
    """What to try while all of it runs."""
    terminal.say()
    terminal.say("Next:")
    if cluster.is_local:
        folder = places.LOCAL_DIRECTORY
        terminal.say(f'  export KUBECONFIG="$PWD/{folder}/kubeconfig" PATH="$PWD/{folder}/bin:$PWD/.venv/bin:$PATH"')
    commands = [
        (f"kubectl get ftj -n {namespace} -o wide", "all jobs, with model, run and queue"),
        (f"kubectl describe ftj {name} -n {namespace}", "this job's story"),
        ("kubectl explain ftj.spec.training_args", "every key is documented"),
        (f"finetune render -f {places.MANIFEST}", "the objects behind it"),
    ]
    for command, meaning in commands:
        terminal.say(f"  {command:46} {terminal.styled(f'# {meaning}', 'dim')}")
    if cluster.is_local:
        endpoint = f"http://{cluster.pod_ip(namespace, f'app.kubernetes.io/name={places.BUCKET}')}:{places.BUCKET_PORT}"
        terminal.say("The same training without a cluster, from the same bucket:")
        terminal.say("  export AWS_ACCESS_KEY_ID=demo AWS_SECRET_ACCESS_KEY=demo-secret")
        terminal.say(f"  finetune run -f {places.MANIFEST} --endpoint {endpoint} --set tracking=null")


def print_failure(cluster: Cluster, namespace: str, name: str, status: dict[str, Any]) -> None:
    """Why the job failed: its conditions, and the end of its pods' logs."""
    from finetune_api import constants

    terminal.error(f"the job {name} did not succeed")
    for line in noteworthy_conditions(status):
        terminal.say(f"  {line}")
    pods = cluster.get("pods", "-n", namespace, "-l", f"{constants.LABEL_JOB}={name}") or {}
    for pod in pods.get("items") or []:
        pod_name = pod["metadata"]["name"]
        terminal.say(f"--- last lines of pod {pod_name} ({pod['status'].get('phase')})")
        terminal.say(cluster.kubectl("logs", pod_name, "-n", namespace, f"--tail={LOG_LINES}", check=False).rstrip())
    terminal.say(f"more: kubectl describe ftj {name} -n {namespace}")
