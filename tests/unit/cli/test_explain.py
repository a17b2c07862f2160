"""`finetune explain`: a key of ours, by path or by its last part, and the other systems' names of it."""

import importlib.util
import json
import subprocess
import sys

import pytest

from finetune_api.parameters import all_parameters
from finetune_cli.key_facts import ON_PODS, SECTION_WHERE, all_keys, facts
from finetune_cli.main import main


@pytest.fixture
def explain(capsys):
    """`explain(key)`: (exit code, stdout, stderr)."""

    def run(*args):
        capsys.readouterr()
        code = main(["explain", *args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def document(explain):
    """`document(key)`: the answer as JSON; asserts that there is one."""

    def run(key):
        code, output, _ = explain(key, "-o", "json")
        assert code == 0
        return json.loads(output)

    return run


def paths(answer):
    return [key["path"] for key in answer["keys"]]


def test_a_path_has_all_that_is_known(explain):
    code, output, _ = explain("training_args.learning_rate")
    assert code == 0
    for line in (
        "spec.training_args.learning_rate",
        "  type     number",
        "  bounds   > 0, <= 1000",
        "  default  5e-05",
        "  support  works",
        "  origin   Lamini (000): finetune_args.learning_rate, there 0.0009",
        "  where    finetune_trainer.train.optimizer",
    ):
        assert line in output.splitlines()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("spec.training_args.learning_rate", ["training_args.learning_rate"]),
        ("learning_rate", ["training_args.learning_rate"]),
        ("overlength", ["sft_args.overlength", "dpo_args.overlength", "clm_args.overlength"]),
        ("datasets[0].sampling_weight", ["data_conf.training_data.datasets[].sampling_weight"]),
        ("FinetuningGPUs", ["finetuningGpus"]),
        ("bucketCredentialsSecret.secretKeyKey", ["bucketCredentialsSecret.secretKeyKey"]),
    ],
)
def test_a_key_is_found_by_its_path_or_the_end_of_it(document, text, wanted):
    assert paths(document(text)) == wanted


@pytest.mark.parametrize(
    ("name", "system", "becomes"),
    [
        ("max_num_checkpoints", "Anyscale LLMForge", ["evaluation_conf.max_events"]),
        ("r_value", "Lamini", ["peft_conf.peft_kwargs.r", "peft_conf.peft_kwargs.lora_alpha"]),
        ("finetune_args.max_length", "Lamini", ["sft_args.max_seq_length", "sft_args.overlength"]),
        ("min_num_update_steps", "Anyscale LLMForge", ["overrides.min_update_steps"]),
        ("evaluation_strategy", "Hugging Face script", ["training_args.eval_strategy"]),
        ("Dropout Rate", "Hugging Face script", ["run_conf.model_hyperparameters.dropout"]),
        ("warmup ratio", "guide on hyperparameters", ["training_args.warmup_steps"]),
    ],
)
def test_another_system_s_name_is_explained_by_what_it_becomes(document, name, system, becomes):
    answer = document(name)
    (source,) = answer["sources"]
    assert (source["system"], source["becomes"]) == (system, becomes)
    assert set(becomes) <= set(paths(answer))


@pytest.mark.parametrize(
    ("key", "support", "reason"),
    [
        ("sft_args.max_seq_length", "supported", ""),
        ("nodes", "supported", ""),
        ("run_conf.model_args.token", "refused", "hfTokenSecret"),
        ("training_args.output_dir", "owned", "the job's own volume"),
        ("training_args.warmup_ratio", "translated", "old name of training_args.warmup_steps"),
        ("training_args.overwrite_output_dir", "removed", "does not exist any more"),
        ("training_args.torch_compile", "refused", "is not supported"),
        ("memory_args.index_k", "refused", "Memory Tuning"),
        ("peft_conf.peft_kwargs.loftq_config", "refused", "LoftQ changes the base model's weights"),
        ("peft_conf.peft_kwargs.r", "restricted", "with ADALORA"),
        ("peft_conf.peft_kwargs.inference_mode", "owned", "always trained"),
    ],
)
def test_whether_a_key_works_and_if_not_why(document, key, support, reason):
    (found,) = document(key)["keys"]
    assert found["support"] == support
    assert reason in found["reason"]


def test_a_parameter_that_becomes_nothing_says_why(explain):
    code, output, _ = explain("dataset_size_scaling_factor")
    assert code == 0
    assert "becomes  nothing" in output
    assert "it only scales Ray's data blocks" in output


@pytest.mark.parametrize(
    ("text", "near"), [("lerning_rate", "learning_rate"), ("max_seq_lenght", "max_seq_length"), ("r_valu", "r_value")]
)
def test_an_unknown_key_has_close_matches(explain, text, near):
    code, output, errors = explain(text)
    assert (code, output) == (1, "")
    assert f"there is no key '{text}'; did you mean " in errors
    assert near in errors


def test_nothing_like_it(explain):
    assert "docs/reference lists all of them" in explain("zzzzzz")[2]


def test_every_key_can_be_explained():
    for path in all_keys():
        found = facts(path)
        assert all((found.type, found.meaning, found.origin or found.origins, found.where)), path


def test_every_parameter_of_the_documents_is_found(explain):
    for row in all_parameters():
        assert explain(row.name if row.document != "003" else row.key)[0] == 0, row


@pytest.mark.parametrize("module", [*SECTION_WHERE.values(), ON_PODS])
def test_the_modules_named_exist(module):
    assert importlib.util.find_spec(module)


def test_neither_torch_nor_the_schema_is_built():
    """What takes long to import or build; the rest is there within 0.5 s."""
    program = (
        "import sys; from finetune_cli.main import main; main(['explain', 'learning_rate']); "
        "from finetune_api.spec import FineTuneJobSpec as S; "
        "print({'torch', 'transformers', 'kopf', 'yaml'} & set(sys.modules), S.__pydantic_complete__)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines()[-1] == "set() False"
