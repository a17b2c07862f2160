"""Preferences from a named dataset, which is not there at first: a condition says so, and once it is the job trains."""

import json

import boto3

ANSWERS = ["yes", "no", "perhaps", "never", "always", "often", "red", "blue"]


def preference(number):
    chosen, rejected = ANSWERS[number % 8], ANSWERS[(number + 3) % 8]
    return {
        "prompt_messages": [{"role": "user", "content": f"question {number}"}],
        "chosen_messages": [{"role": "assistant", "content": chosen}],
        "rejected_messages": [{"role": "assistant", "content": rejected}],
    }


def test_a_dpo_job_on_the_splits_of_a_named_dataset(operator_process, jobs, spec, bucket, kubectl, namespace):
    named = {"type": "CONCATENATION", "datasets": [{"path": "dataset://preferences"}]}
    del spec["sft_args"]
    data = {**spec["data_conf"], "training_data": named, "validation_data": named}
    jobs.apply("dpo", **{**spec, "method": "dpo", "dpo_args": {"beta": 0.2}, "data_conf": data})
    assert "'preferences'" in jobs.until_reason("dpo", "ConfigMapMissing")
    client = boto3.client(
        "s3", endpoint_url=bucket, aws_access_key_id="t", aws_secret_access_key="t", region_name="us-east-1"
    )
    for split, rows in (("train", range(24)), ("validation", range(20, 26)), ("test", range(3))):
        lines = "\n".join(json.dumps(preference(number)) for number in rows)
        client.put_object(Bucket="models", Key=f"preferences/{split}.jsonl", Body=lines.encode())
    where = {"path": "s3://models/preferences", "description": "Answers that were preferred."}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "preferences"}, "data": where}
    kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(config))
    status = jobs.until_phase("dpo", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded", jobs.condition("dpo", "Failed")
    dataset, effective = status["dataset"], status["effective"]
    assert (dataset["examples"], dataset["validationExamples"], dataset["leaks"]) == (24, 6, 4)
    assert (dataset["stepsPerEpoch"], dataset["totalSteps"]) == (6, 6)
    assert 0 < dataset["padShare"] < 1
    memory = dataset["memory"]
    assert (
        memory["weights"] == 2 * memory["gradients"] == memory["optimizer"] > 0
    )  # the trained and the reference model
    assert sum(memory.values()) == dataset["memoryEstimateBytes"]
    assert (effective["epochs"], effective["warmupSteps"], effective["totalBatch"]) == (1.0, 0, 4)
    assert any("validation rows also stand in the training data" in notice for notice in status["notices"])
    assert status["progress"]["steps"] == "6/6"
    assert status["progress"]["evalLoss"] > 0
