"""`finetune validate` and the table of manifests: what is refused, where it stands, and what the message says."""

import json
from typing import Any

from finetune_api.manifest import load_manifests
from finetune_api.resolve import resolve
from finetune_api.spec import FineTuneJobSpec
from finetune_api.validation import validate_manifest


def test_accepted_manifests_validate_and_resolve(accepted: dict[str, Any]) -> None:
    assert [str(problem) for problem in validate_manifest(accepted["manifest"])] == []
    once = resolve(FineTuneJobSpec.model_validate(accepted["manifest"]["spec"]))
    again = resolve(once.spec)
    assert again.spec == once.spec, "resolving what is resolved must change nothing"
    assert again.training_args == once.training_args


def test_refused_manifests_name_the_key_and_the_fix(refused: dict[str, Any]) -> None:
    problems = {problem.path: problem for problem in validate_manifest(refused["manifest"])}
    assert refused["at"] in problems, f"blamed {list(problems)} instead"
    problem = problems[refused["at"]]
    assert refused["says"] in problem.message
    assert problem.suggestion == refused.get("hint")


def test_each_refused_manifest_has_that_problem_only(refused: dict[str, Any]) -> None:
    related = {"spec.distributedType", "spec.customAccelerateConfig", refused["at"]}
    others = [str(one) for one in validate_manifest(refused["manifest"]) if one.path not in related]
    assert others == []


def test_a_problem_stands_at_its_line(refused: dict[str, Any]) -> None:
    text = json.dumps(refused["manifest"], indent=1)  # JSON is YAML, and PyYAML would write "2e-5" without quotes
    (manifest,) = load_manifests(text, "job.yaml")
    (problem,) = [one for one in validate_manifest(manifest) if one.path == refused["at"]]
    lines = text.splitlines()
    assert problem.line is not None
    assert problem.column is not None
    assert str(problem).startswith(f"job.yaml:{problem.line}:{problem.column}: error: {problem.path}")
    blamed = lines[problem.line - 1][problem.column - 1 :]
    keys = [step.partition("[")[0] for step in refused["at"].split(".")]
    assert any(key in blamed for key in keys), f"{problem} points at {blamed!r}"
