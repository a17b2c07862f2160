"""`python -m tests.faults`: run plans of faults against the operator and a real API server; docs/faults.md.

python -m tests.faults                     plans from seed 0 (or --first) on, for --seconds
python -m tests.faults 17 40-60            these seeds
python -m tests.faults --print 17          the plan of a seed as YAML
python -m tests.faults --plan plan.yaml    a plan from a file
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from finetune_operator.kube import config as kube_config
from finetune_operator.kube.client import KubeClient
from finetune_operator.metrics import Metrics

from .kubelet import Kubelet
from .lane import ROOT, Lane
from .oracles import Result
from .plans import LIVES, WRITES, Plan, from_yaml, plan_of

LOCALCLUSTER = ROOT / ".cache" / "localcluster" / "localcluster"
CLUSTER = ROOT / ".localcluster-faults"
BEAT_SECONDS = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("seeds", nargs="*", help="seeds or ranges such as 40-60")
    parser.add_argument("--plan", type=Path, help="a plan from a file")
    parser.add_argument("--print", action="store_true", help="only print the plans")
    parser.add_argument("--seconds", type=float, default=600.0, help="without seeds: for how long plans are begun")
    parser.add_argument("--first", type=int, default=0, help="without seeds: the first one")
    parser.add_argument("--lanes", type=int, default=4, help="operators side by side")
    parser.add_argument("--keep", action="store_true", help="leave the control plane running")
    args = parser.parse_args()
    try:
        return asyncio.run(_main(args))
    except asyncio.CancelledError:
        return 130


async def _main(args: argparse.Namespace) -> int:
    if args.plan:
        plans: Iterator[Plan] = iter([from_yaml(args.plan.read_text())])
    elif args.seeds:
        plans = map(plan_of, _seeds(args.seeds))
    else:
        plans = _until(args.first, args.seconds)
    if args.print:
        for plan in plans if args.seeds or args.plan else ():
            print(plan.to_yaml())
        return 0
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)  # no operator outlives this process
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    with _cluster(args.keep):
        async with _world(args.lanes, folder) as lanes:
            references = await _references(lanes)
            results = await _all(lanes, plans, references)
            left = [one for lane in lanes for one in await lane.remove_all()]
    return _report(results, left, folder)


def _seeds(words: list[str]) -> Iterator[int]:
    for word in words:
        first, _, last = word.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _until(first: int, seconds: float) -> Iterator[Plan]:
    end: float | None = None
    for seed in itertools.count(first):
        end = end or time.monotonic() + seconds  # counted from the first plan on
        if time.monotonic() >= end:
            return
        yield plan_of(seed)


async def _references(lanes: list[Lane]) -> dict[str, Result]:
    """One run of each life without a fault: which writes it takes and what it comes to."""
    free = asyncio.Queue[Lane]()
    for lane in lanes:
        free.put_nowait(lane)

    async def one(number: int, life: str) -> Result:
        lane = await free.get()
        try:
            return await lane.run(Plan(-1, life), f"r{number:05}", None)
        finally:
            free.put_nowait(lane)

    found = await asyncio.gather(*(one(number, life) for number, life in enumerate(LIVES)))
    references = dict(zip(LIVES, found, strict=True))
    for life, result in references.items():
        print(
            f"reference {life}: {len(result.writes)} writes, {result.end.get('status.phase')}, {result.seconds:.1f} s"
        )
        print(result.explained())
        if result.wrong:
            raise SystemExit(f"the reference run of {life} is wrong")
        if len(result.writes) > WRITES[life]:
            print(f"  plans.WRITES knows {WRITES[life]} of these writes: no plan has a fault at the last ones")
    return references


async def _all(lanes: list[Lane], plans: Iterator[Plan], references: dict[str, Result]) -> list[Result]:
    results: list[Result] = []

    async def work(lane: Lane) -> None:
        for plan in plans:
            result = await lane.run(plan, f"p{plan.seed:05}", references[plan.life])
            results.append(result)
            said = "FAILED" if result.wrong else "ok" if result.done else "ok (no fault met)"
            print(f"seed {plan.seed} {plan.life} {result.seconds:.1f} s {said}: {'; '.join(result.done)}", flush=True)
            for line in result.wrong:
                print(f"  WRONG: {line}", flush=True)

    await asyncio.gather(*(work(lane) for lane in lanes))
    return results


def _report(results: list[Result], left: list[str], folder: Path) -> int:
    failed = [result for result in results if result.wrong]
    distinct = len({result.plan.key() for result in results})
    met = sum(bool(result.done) for result in results)
    print(f"{distinct} distinct plans ran, {met} of {len(results)} met a fault, {len(failed)} failed")
    for result in failed:
        print(f"failed: seed {result.plan.seed}: {'; '.join(result.wrong)[:400]}\n{result.plan.to_yaml()}")
    if left:
        print(f"left behind after all jobs were deleted: {left}")
    if failed or left:
        print(f"logs: {folder}")
    return 1 if failed or left else 0


@contextlib.contextmanager
def _cluster(keep: bool) -> Iterator[None]:
    if not LOCALCLUSTER.exists():
        raise SystemExit("the local control plane is not built: run `make localcluster` once")
    kubectl = [str(CLUSTER / "bin" / "kubectl"), "--kubeconfig", str(CLUSTER / "kubeconfig")]
    # One that was kept has its own node cordoned, and `up` would wait for that node.
    kept = (CLUSTER / "kubeconfig").exists() and subprocess.run(
        [*kubectl, "get", "--raw", "/readyz", "--request-timeout=5s"], capture_output=True, check=False
    ).returncode == 0
    if not kept:
        subprocess.run([str(LOCALCLUSTER), "up", "--dir", str(CLUSTER)], check=True, cwd=ROOT)
    try:
        for command in (
            ["apply", "--server-side", "--force-conflicts", "-f", "crds/finetunejobs.yaml"],
            ["wait", "--for=condition=Established", "crd/finetunejobs.finetune-operator.io", "--timeout=30s"],
            # The real node takes nothing: pods go to the one that we play.
            ["cordon", "-l", "kubernetes.io/hostname!=faults"],
        ):
            subprocess.run([*kubectl, *command], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        yield
    finally:
        if not keep:
            subprocess.run([str(LOCALCLUSTER), "down", "--purge", "--dir", str(CLUSTER)], check=False, cwd=ROOT)


@contextlib.asynccontextmanager
async def _world(count: int, folder: Path) -> AsyncIterator[list[Lane]]:
    config = kube_config.from_file(CLUSTER / "kubeconfig")
    async with (
        KubeClient(config, Metrics(), "faults") as client,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=config.ssl_context()), timeout=aiohttp.ClientTimeout(total=None)
        ) as session,
    ):
        kubelet = Kubelet(client)
        await kubelet.register()
        lanes = [Lane(number, client, config, kubelet, folder) for number in range(count)]
        homes = {lane.namespace: lane for lane in lanes}

        def pod(_: str, body: dict[str, Any]) -> None:
            if body["metadata"]["namespace"] in homes:
                kubelet.pod(body)

        def job(kind: str, body: dict[str, Any]) -> None:
            if lane := homes.get(body["metadata"]["namespace"]):
                lane.job_event(kind, body)

        async def beat() -> None:
            while True:
                await asyncio.sleep(BEAT_SECONDS)
                await kubelet.beat()

        server = config.server.rstrip("/")
        tasks = [
            asyncio.create_task(_watch(session, f"{server}/api/v1/pods", pod)),
            asyncio.create_task(_watch(session, f"{server}/apis/batch/v1/jobs", job)),
            asyncio.create_task(beat()),
        ]
        try:
            for lane in lanes:
                await lane.start()
            yield lanes
        finally:
            for task in tasks:
                task.cancel()
            for lane in lanes:
                with contextlib.suppress(Exception):
                    await lane.stop()


async def _watch(session: aiohttp.ClientSession, url: str, heard: Any) -> None:
    while True:
        async with session.get(url, params={"watch": "true"}, read_bufsize=1 << 22) as stream:
            async for line in stream.content:
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                    heard(event["type"], event["object"])


if __name__ == "__main__":
    sys.exit(main())
