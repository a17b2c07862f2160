"""`finetune demo` (what `make demo` calls): from nothing to a fine-tuned model, with everything shown on the way.

A local cluster, the operator with MLflow, an S3 bucket with a small base model and real dialogues, one FineTuneJob,
its progress, and the result. Every step is idempotent: a second run finds what exists and only trains again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_cli import terminal
from finetune_cli.demo_places import LOCAL_DIRECTORY, MANIFEST, NAMESPACE, ROOT, Files
from finetune_cli.errors import EXIT_CANCELLED, EXIT_OK, EXIT_PROBLEMS, CliError

if TYPE_CHECKING:
    from finetune_cli.demo_cluster import Cluster


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--use-current", action="store_true", help="use the kubeconfig's cluster, start no local one")
    parser.add_argument("--kubeconfig", metavar="FILE", help="with --use-current; default: $KUBECONFIG")
    parser.add_argument("--context", help="with --use-current: the kubeconfig's context to use")
    parser.add_argument(
        "--helm-set", metavar="KEY=VALUE", action="append", default=[], help="a value for the operator's chart"
    )
    parser.add_argument("--fresh", action="store_true", help="remove what earlier runs left, and start from nothing")
    after = parser.add_mutually_exclusive_group()
    after.add_argument("--keep", action="store_true", help="leave all of it running in the end (the default)")
    after.add_argument("--delete", action="store_true", help="remove all of it in the end, and stop the local cluster")


def run(args: argparse.Namespace) -> int:
    if (args.kubeconfig or args.context) and not args.use_current:
        raise CliError("--kubeconfig and --context need --use-current; without it the demo has a cluster of its own", 2)
    if not (ROOT / MANIFEST).exists():
        raise CliError(f"the demo runs from a checkout of the project: there is no {ROOT / MANIFEST}")
    os.chdir(ROOT)
    started = time.monotonic()
    cluster = choose_cluster(args)
    try:
        return _demo(args, cluster, started)
    except KeyboardInterrupt:
        cluster.commands.stop()
        print(file=sys.stderr)
        terminal.note(
            f"stopped. What has been made is still there, and the next run goes on with it. {how_to_stop(cluster)}"
        )
        return EXIT_CANCELLED


def choose_cluster(args: argparse.Namespace) -> Cluster:
    from finetune_cli.demo_cluster import current_cluster, local_cluster

    files = Files(Path(".cache/demo"))
    if args.use_current:
        return current_cluster(args.kubeconfig, args.context, files.logs)
    return local_cluster(LOCAL_DIRECTORY.absolute(), files.logs)


def how_to_stop(cluster: Cluster) -> str:
    if cluster.is_local:
        return "`make cluster-down` stops the cluster."
    return "`finetune demo --use-current --delete` removes it in the end."


def _demo(args: argparse.Namespace, cluster: Cluster, started: float) -> int:
    from finetune_cli import demo_result, live
    from finetune_cli.demo_prepare import Preparation
    from finetune_cli.kube_client import KubeClient
    from finetune_cli.kubeconfig import load_connection
    from finetune_cli.steps import Steps
    from finetune_cli.watch import outcome, show

    files = Files(Path(".cache/demo"))
    preparation = Preparation(cluster, files, args.helm_set)
    with Steps() as steps:
        if args.fresh:
            preparation.start_over(steps)
        name = preparation.run(steps)
    client = KubeClient(load_connection(str(cluster.kubeconfig) if cluster.kubeconfig else None, cluster.context))
    with live.job_view(name) as view:
        status = show(client, NAMESPACE, name, view)
    if outcome(status) != "Succeeded":
        demo_result.print_failure(cluster, NAMESPACE, name, status)
        return EXIT_PROBLEMS
    with Steps() as steps:
        answers = demo_result.ask_models(steps, cluster, files, status)
    demo_result.print_result(cluster, NAMESPACE, name, status, answers=answers, seconds=time.monotonic() - started)
    if args.delete:
        with Steps() as steps:
            preparation.remove(steps)
    else:
        demo_result.print_next_commands(cluster, NAMESPACE, name)
        terminal.say(how_to_stop(cluster))
    return EXIT_OK
