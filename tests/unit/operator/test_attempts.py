"""What is written down of an attempt, and what follows from it: out of memory, hangs, attempts used up and given."""

import json

import pytest

from finetune_operator.plan.types import Create


def config(decisions):
    """The next try's job configuration."""
    bodies = [action.body for action in decisions.actions if isinstance(action, Create)]
    return json.loads(next(body for body in bodies if body["kind"] == "ConfigMap")["data"]["job.json"])


def failed_message(decisions):
    return next(c for c in decisions.status["conditions"] if c["type"] == "Failed")["message"]


@pytest.fixture
def ended(world):
    """ended(number, exit_code, report, seen=None): that try's pod runs (and reports `seen`), then ends; the plan after
    it, its status written."""

    def run(number, exit_code, report=None, seen=None, **pod):
        job = world.train_job(number)
        world.training_with(job, pods=(world.pod(job, created=-400),))
        world.step(progress=seen)
        job = world.train_job(number, end="Failed" if exit_code else "Complete")
        world.training_with(job, pods=(world.pod(job, exit_code=exit_code, report=report, created=-400, **pod),))
        return world.step()

    return run


class TestWhatIsWrittenDown:
    def test_of_a_failure(self, world, ended):
        report = {"reason": "InternalError", "message": "a bug", "step": 57, "resumedFromStep": 50}
        attempt = ended(1, 70, report | {"effective": {"perDeviceBatch": 4}}).status["attempts"][0]
        assert attempt == {
            "id": 1,
            "job": "demo-1",
            "pod": attempt["pod"],
            "startTime": world.at(-400),
            "endTime": world.at(),
            "durationSeconds": 400,
            "reason": "InternalError",
            "message": "a bug",
            "exitCode": 70,
            "outcome": "retry",
            "resumedFromStep": 50,
            "lastStep": 57,
            "perDeviceBatch": 4,
        }

    def test_of_a_pod_that_vanished_what_it_had_told_stays(self, world):
        job = world.train_job()
        pod = world.pod(job)
        pod["spec"] = {"nodeName": "gpu-7"}
        world.training_with(job, pods=(pod,))
        seen = {"phase": "training", "step": 57, "resumedFromStep": 50, "effective": {"perDeviceBatch": 4}}
        world.step(progress=seen)
        world.training_with(world.train_job(end="Failed"))
        attempt = world.plan().status["attempts"][0]
        assert (attempt["node"], attempt["lastStep"], attempt["resumedFromStep"]) == ("gpu-7", 57, 50)
        assert (attempt["outcome"], attempt["durationSeconds"]) == ("resume", 60)

    def test_of_an_evicted_pod_that_its_job_has_replaced(self, world):
        job = world.train_job()
        old = world.pod(job, created=-300)
        world.training_with(job, pods=(old,))
        world.step()
        report = {"reason": "Interrupted", "message": "stopped after step 9", "step": 9}
        old = world.pod(job, exit_code=75, report=report, created=-300, disrupted=True)
        world.training_with(job, pods=(old, world.pod(job, created=-5)))
        first, second = world.plan().status["attempts"]
        assert (first["reason"], first["outcome"], first["exitCode"]) == ("Preempted", "resume", 75)
        assert (first["lastStep"], first["message"]) == (9, "stopped after step 9")
        assert second["job"] == "demo-1"

    def test_an_interruption_has_an_event_of_its_own_once(self, world, ended):
        decisions = ended(1, 75, {"reason": "Interrupted", "message": "stopped after step 9"})
        told = [(notice.type, notice.reason, notice.message) for notice in decisions.notices]
        assert told == [("Normal", "Interrupted", "attempt 1 has ended: stopped after step 9")]
        assert world.plan().notices == ()

    def test_more_failures_than_the_history_holds_are_counted_all_the_same(self, world, ended, created):
        world.spec["maxAttempts"] = 23
        for number in range(1, 23):
            world.wait(1000)
            decisions = ended(number, 70)
            assert decisions.status["failures"] == number
        assert len(decisions.status["attempts"]) == 20
        world.wait(1000)
        assert created(world.plan())[-1] == "Job/demo-23"
        assert ended(23, 70).status["phase"] == "Failed"


class TestHangs:
    """The watchdog's end (exit code 75, reason NoProgress) is an interruption only where training has come further."""

    @pytest.mark.parametrize(
        ("report", "outcome"),
        [
            ({"checkpoints": [{"step": 50}, {"step": 100}], "resumedFromStep": 50}, "resume"),
            ({"checkpoints": [{"step": 10}]}, "resume"),
            ({"checkpoints": [{"step": 50}], "resumedFromStep": 50, "step": 57}, "retry"),
            ({"step": 9}, "retry"),
            ({}, "retry"),
        ],
    )
    def test_counts_without_a_new_checkpoint(self, ended, report, outcome):
        decisions = ended(1, 75, {"reason": "NoProgress", "message": "nothing moved for 1800 s", **report})
        assert decisions.status["attempts"][0]["outcome"] == outcome
        assert decisions.status["failures"] == (outcome == "retry")

    def test_the_same_hang_again_and_again_ends_the_job(self, world, ended, condition):
        for number in (1, 2, 3):
            world.wait(1000)
            decisions = ended(number, 75, {"reason": "NoProgress", "message": "nothing moved", "step": 7})
        assert condition(decisions, "Failed") == ("True", "NoProgress")

    def test_being_told_to_stop_without_a_checkpoint_counts_never(self, ended):
        assert ended(1, 75, {"reason": "Interrupted", "message": "stopped"}).status["failures"] == 0

    def test_the_pod_is_told_how_long_a_step_may_take(self, world):
        world.spec["stepTimeoutSeconds"] = 77
        job = next(a.body for a in world.downloaded().plan().actions if a.body["kind"] == "Job")
        env = {one["name"]: one.get("value") for one in job["spec"]["template"]["spec"]["containers"][0]["env"]}
        assert env["FINETUNE_WATCHDOG_SECONDS"] == "77"


class TestOutOfMemory:
    @staticmethod
    def report(per_device):
        return {
            "reason": "OutOfMemory",
            "message": f"lower it to {per_device // 2}",
            "effective": {"perDeviceBatch": per_device, "worldSize": 1},
        }

    @pytest.fixture(autouse=True)
    def sizes(self, world):
        world.spec["batchsize_conf"] = {
            "total_train_batch_size": 24,
            "max_per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 8,
        }

    def test_without_leave_it_fails_and_says_what_to_lower_and_how_to_go_on(self, ended, created, condition):
        decisions = ended(1, 79, self.report(8))
        assert created(decisions) == []
        assert condition(decisions, "Failed") == ("True", "OutOfMemory")
        message = failed_message(decisions)
        assert "lower it to 4" in message
        assert "retryWithSmallerBatch: true" in message
        assert "a batch of 4 per device" in message

    @pytest.mark.parametrize(
        "leave",
        [{"retryWithSmallerBatch": True}, {"overrides": {"auto": ["per_device_batch"]}}],
        ids=["retryWithSmallerBatch", "overrides.auto"],
    )
    def test_with_leave_half_the_batch_per_device_and_the_same_total(self, world, ended, created, leave):
        world.spec |= {"maxAttempts": 1, **leave}
        decisions = ended(1, 79, self.report(8))
        assert created(decisions) == ["ConfigMap/demo-2", "Job/demo-2"]
        sizes = config(decisions)["spec"]["batchsize_conf"]
        assert sizes == {
            "total_train_batch_size": 24,
            "max_per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
        }
        attempt = decisions.status["attempts"][0]
        assert (attempt["outcome"], attempt["reason"], attempt["perDeviceBatch"]) == ("resume", "OutOfMemory", 8)
        assert decisions.status["failures"] == 0
        assert any("take 4 and accumulate 6 steps" in one for one in decisions.status["notices"])

    def test_again_and_again_until_there_is_nothing_to_halve(self, world, ended, created, condition):
        world.spec["retryWithSmallerBatch"] = True
        for number, (size, following) in enumerate(((8, 4), (4, 2), (2, 1)), 1):
            world.wait(1000)
            decisions = ended(number, 79, self.report(size))
            assert config(decisions)["spec"]["batchsize_conf"]["max_per_device_train_batch_size"] == following
        decisions = ended(4, 79, self.report(1))
        assert created(decisions) == []
        assert condition(decisions, "Failed") == ("True", "OutOfMemory")
        assert "retryWithSmallerBatch" not in failed_message(decisions)
        assert world.plan().actions == ()

    def test_it_stays_small_after_a_preemption(self, world, ended):
        world.spec["retryWithSmallerBatch"] = True
        ended(1, 79, self.report(8))
        decisions = ended(2, 75, {"reason": "Interrupted", "effective": {"perDeviceBatch": 4}})
        assert config(decisions)["spec"]["batchsize_conf"]["max_per_device_train_batch_size"] == 4

    def test_a_process_that_was_killed_with_its_words_is_known_from_progress(self, world, ended):
        world.spec["retryWithSmallerBatch"] = True
        decisions = ended(1, 79, seen={"phase": "training", "step": 3, "effective": {"perDeviceBatch": 8}})
        assert config(decisions)["spec"]["batchsize_conf"]["max_per_device_train_batch_size"] == 4

    @pytest.mark.parametrize(
        "report", [{"reason": "OutOfMemory"}, {"reason": "ModelTooLarge", "effective": {"perDeviceBatch": 8}}]
    )
    def test_a_model_that_does_not_fit_is_not_tried_again(self, world, ended, created, report):
        world.spec["retryWithSmallerBatch"] = True
        decisions = ended(1, 79, {"message": "the model does not fit", **report})
        assert created(decisions) == []
        assert failed_message(decisions) == "the model does not fit"

    def test_leave_given_after_the_end_lets_it_go_on(self, world, ended, created):
        ended(1, 79, self.report(8))
        assert world.plan().actions == ()
        world.spec["retryWithSmallerBatch"] = True
        decisions = world.plan()
        assert created(decisions) == ["ConfigMap/demo-2", "Job/demo-2"]
        assert config(decisions)["spec"]["batchsize_conf"]["max_per_device_train_batch_size"] == 4


class TestAttemptsGivenLater:
    @pytest.fixture
    def used_up(self, world, ended):
        world.spec["maxAttempts"] = 2
        ended(1, 70)
        world.wait(1000)
        assert ended(2, 70, {"message": "a bug", "reason": "InternalError"}).status["maxAttemptsReached"] == 2
        return world

    def test_a_higher_max_attempts_goes_on_from_the_newest_checkpoint(self, used_up, created, condition):
        used_up.spec["maxAttempts"] = 3
        used_up.wait(1000)
        decisions = used_up.step()
        assert created(decisions) == ["ConfigMap/demo-3", "Job/demo-3"]
        job = next(a.body for a in decisions.actions if a.body["kind"] == "Job")
        env = {one["name"]: one.get("value") for one in job["spec"]["template"]["spec"]["containers"][0]["env"]}
        assert env["FINETUNE_RESUME"] == "auto"
        assert condition(decisions, "Failed")[0] == "False"
        assert "completionTime" not in decisions.status
        assert "maxAttemptsReached" not in decisions.status
        assert [a["job"] for a in decisions.status["attempts"]] == ["demo-1", "demo-2"]

    @pytest.mark.parametrize("value", [1, 2, None])
    def test_no_higher_one_changes_nothing(self, used_up, created, value):
        used_up.spec["maxAttempts"] = value
        decisions = used_up.plan()
        assert created(decisions) == []
        assert decisions.status["phase"] == "Failed"

    def test_children_that_ttl_has_removed_are_made_anew_with_the_download_first(self, used_up, created):
        """The volume or the model may be gone too: the download brings what is missing, and knows what is there."""
        used_up.spec["maxAttempts"] = 3
        used_up.wait(1000)
        used_up.observed |= {"jobs": (), "pods": ()}
        assert created(used_up.step())[-1] == f"Job/demo-download-{used_up.training[:6]}"
        used_up.downloaded()
        assert created(used_up.plan()) == ["ConfigMap/demo-3", "Job/demo-3"]

    def test_what_no_retry_mends_does_not_go_on(self, world, ended, created):
        ended(1, 65)
        world.spec["maxAttempts"] = 9
        assert created(world.plan()) == []

    def test_a_download_that_failed_too_often_goes_on_too(self, world, created):
        jobs = tuple(world.download_job("Failed", n) for n in (1, 2, 3))
        pods = tuple(world.pod(job, exit_code=69) for job in jobs)
        world.with_storage().observed |= {"jobs": jobs, "pods": pods}
        assert world.step().status["maxAttemptsReached"] == 3
        world.spec["maxAttempts"] = 4
        world.wait(1000)
        assert created(world.plan())[-1] == f"Job/demo-download-{world.training[:6]}-4"
