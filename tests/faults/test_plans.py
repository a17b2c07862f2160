"""A failure of `make test-faults` is worth nothing if its seed does not bring it back."""

from tests.faults.oracles import stable
from tests.faults.plans import ANSWERS, KILLS, WRITES, from_yaml, plan_of


def test_a_seed_is_one_plan_for_ever():
    assert [plan_of(seed) for seed in range(200)] == [plan_of(seed) for seed in range(200)]
    assert plan_of(0).key() != plan_of(1).key()


def test_a_printed_plan_is_read_back():
    for seed in range(60):
        assert from_yaml(plan_of(seed).to_yaml()) == plan_of(seed)


def test_every_write_of_every_life_meets_every_fault():
    single = {plan.key() for seed in range(1400) if (plan := plan_of(seed)).faults == 1 and plan.writes}
    assert len(single) == sum(WRITES.values()) * len((*KILLS, *ANSWERS))


def test_ends_that_differ_are_told_apart():
    assert stable({"status.phase": "Succeeded", "children.Job": "NAME-1"}, {"children.Job": "NAME-1"}) == [
        "status.phase is None, in the reference 'Succeeded'"
    ]
