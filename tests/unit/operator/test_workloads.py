"""Which Workloads are read, and when: those of Jobs that Kueue holds, and none while pods run."""

import pytest

from finetune_api import constants
from finetune_operator.kube.errors import ApiError
from finetune_operator.plan.types import Observed
from finetune_operator.workloads import queued_jobs, read_workloads

ADMITTED = {"conditions": [{"type": "Admitted", "status": "True"}]}


class Api:
    """Answers a list with what it was given, and remembers what it was asked."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    async def list(self, resource, namespace, **selectors):
        self.asked.append((resource.path(namespace), selectors))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def looked_at(world, job, status=None):
    world.status = status or {}
    return Observed(world.job, jobs=(job,))


@pytest.mark.parametrize(
    ("suspend", "label", "status", "end", "read"),
    [
        (True, True, {}, None, True),
        (True, False, {}, None, True),  # held by somebody: perhaps in a queue that Kueue chose
        (True, True, ADMITTED, None, True),  # taken back
        (False, True, {}, None, True),  # started since: to see that it was admitted
        (False, True, ADMITTED, None, False),
        (False, False, {}, None, False),
        (False, True, {}, "Complete", False),
    ],
)
def test_a_workload_is_read_while_it_has_something_to_say(world, suspend, label, status, end, read):
    job = world.train_job(suspend=suspend, end=end)
    if label:
        job["metadata"]["labels"][constants.LABEL_QUEUE] = "gpu"
    assert bool(queued_jobs(looked_at(world, job, status))) is read


async def test_it_is_found_by_the_label_that_kueue_gives_it(world):
    job = world.train_job(suspend=True)
    api = Api([{"metadata": {"name": "w"}}])
    assert await read_workloads(api, looked_at(world, job), "v1beta2") == ({"metadata": {"name": "w"}},)
    path = "/apis/kueue.x-k8s.io/v1beta2/namespaces/team/workloads"
    assert api.asked == [(path, {"labelSelector": "kueue.x-k8s.io/job-uid=uid-demo-1"})]


@pytest.mark.parametrize("error", [ApiError(404, "NotFound", "no such kind"), ApiError(403, "Forbidden", "no")])
async def test_a_refused_list_holds_no_job_up(world, error):
    """Kueue is being installed or removed; the rights are an older chart's; Kueue's conversion webhook is down."""
    assert await read_workloads(Api(error), looked_at(world, world.train_job(suspend=True)), "v1beta2") == ()
