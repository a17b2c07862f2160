"""`finetune watch NAME`: follow a job in the cluster until it ends; the exit code says how it ended."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from finetune_cli import live, terminal
from finetune_cli.errors import EXIT_OK, EXIT_PROBLEMS, CliError

if TYPE_CHECKING:
    from finetune_cli.kube_client import KubeClient


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the FineTuneJob (ftj/NAME is understood too)")
    parser.add_argument("-n", "--namespace", help="its namespace (default: the context's)")
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, else ~/.kube/config")
    parser.add_argument("--context", help="the kubeconfig's context to use")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="json: one status a line")


def run(args: argparse.Namespace) -> int:
    from finetune_cli.kube_client import KubeClient
    from finetune_cli.kubeconfig import load_connection

    client = KubeClient(load_connection(args.kubeconfig, args.context))
    namespace = args.namespace or client.connection.namespace
    name = args.name.rpartition("/")[2]
    if args.output == "json":
        return _as_json(client, namespace, name)
    with live.job_view(name) as view:
        status = show(client, namespace, name, view)
    print_end(name, namespace, status)
    return EXIT_OK if outcome(status) == "Succeeded" else EXIT_PROBLEMS


def collection(namespace: str) -> str:
    """The API path of a namespace's jobs."""
    from finetune_api import constants

    return f"/apis/{constants.API_VERSION}/namespaces/{namespace}/{constants.PLURAL}"


def outcome(status: dict[str, Any]) -> str | None:
    """'Succeeded' or 'Failed' once the job has ended, by its conditions; None while it goes on."""
    for condition in status.get("conditions") or []:
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
            return "Succeeded" if condition["type"] == "Complete" else "Failed"
    return None


def jobs(client: KubeClient, namespace: str, name: str, view: live.View | None = None) -> Iterator[dict[str, Any]]:
    """The job now and after each change, up to and including its end.

    Raises:
        CliError: there is no such job, it was deleted meanwhile, or the API server refuses.
    """
    from finetune_cli.kube_client import ApiError, follow

    seen = False
    try:
        for job in follow(client, collection(namespace), name, view.message if view else terminal.warn):
            if job is None:
                raise CliError(_gone(name, namespace, seen))
            seen = True
            yield job
            if outcome(job.get("status") or {}):
                return
    except ApiError as refusal:
        if refusal.status == 404:
            raise CliError(
                "this cluster does not know FineTuneJobs: install the operator first,"
                " helm install finetune-operator charts/finetune-operator -n finetune-system --create-namespace"
            ) from refusal
        raise


def show(client: KubeClient, namespace: str, name: str, view: live.View) -> dict[str, Any]:
    """Show the job in `view` until it ends; its last status. Raises CliError as `jobs` does."""
    status: dict[str, Any] = {}
    for job in jobs(client, namespace, name, view):
        status = job.get("status") or {}
        view.update(status)
    return status


def print_end(name: str, namespace: str, status: dict[str, Any]) -> None:
    """How it ended, and what to look at next."""
    if outcome(status) == "Succeeded":
        model = status.get("model") or {}
        terminal.say(f"{name} succeeded. {live.progress_text({**(status.get('progress') or {}), 'etaSeconds': None})}")
        if model.get("remote"):
            terminal.say(f"model: {model['remote']}")
        if model.get("path"):
            terminal.say(f"model on the volume {name}-checkpoints: {model.get('merged') or model['path']}")
        if (status.get("mlflow") or {}).get("url"):
            terminal.say(f"MLflow: {status['mlflow']['url']}")
        return
    for condition in status.get("conditions") or []:
        if condition.get("type") == "Failed" and condition.get("status") == "True":
            terminal.error(f"{name} failed: {condition.get('reason')}: {condition.get('message')}")
    terminal.say(f"more: kubectl describe ftj {name} -n {namespace}")


def _as_json(client: KubeClient, namespace: str, name: str) -> int:
    status: dict[str, Any] = {}
    for job in jobs(client, namespace, name):
        status = job.get("status") or {}
        terminal.print_json({"name": name, "namespace": namespace, "status": status}, compact=True)
    return EXIT_OK if outcome(status) == "Succeeded" else EXIT_PROBLEMS


def _gone(name: str, namespace: str, seen: bool) -> str:
    if seen:
        return f"{name} was deleted while it was watched"
    return f"there is no FineTuneJob {name!r} in namespace {namespace!r} (kubectl get ftj -A lists all)"
