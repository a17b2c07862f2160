"""Writes the parameter lists beside this file from the source documents, so that tests need not carry the documents.

    python tests/unit/api/documents/extract.py FOLDER_OF_THE_DOCUMENTS

One JSON file a document: section -> key -> {"default": …} or {"required": true} or {} (optional, without a default).
What a document shows as the value of an example counts as its default. Nothing is typed by hand but the items of the
guide (002), which is prose, and how a section is called.
"""

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

Parameters = dict[str, dict[str, dict[str, Any]]]
HERE = Path(__file__).parent

# The guide has no list of parameters: each item with the sentence that names it.
GUIDE_ITEMS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "Batch Size": {"batch size": ("increase batch size until the model goes out of memory", {})},
    "Sequence Length": {
        "padding_side": ('tokenizer.padding_side = "left"', {"default": "left"}),
        "pad_token": ("tokenizer.pad_token = tokenizer.unk_token", {"default": "unk_token"}),
        "padding": ("padding='max_length'", {"default": "max_length"}),
        "max_length": ("max_length=20", {"default": 20}),
    },
    "Epochs and steps": {
        "gradient accumulation": ("accumulating the gradients over several steps", {}),
        "gradient checkpointing": ("we might use gradient checkpointing", {}),
        "num_train_epochs": ("the `num_train_epochs` or `max_steps`", {}),
        "max_steps": ("the `num_train_epochs` or `max_steps`", {}),
    },
    "Learning Rate": {"learning rate": ("The learning rate controls the speed", {})},
    "Schedulers": {
        "linear": ("linear, cosine and constant schedulers", {}),
        "cosine": ("linear, cosine and constant schedulers", {}),
        "constant": ("linear, cosine and constant schedulers", {}),
        "warmup ratio": ("Warmup Ratio of 10%", {"default": 0.1}),
        "warmup steps": ("a fixed number of warmup steps", {}),
    },
    "Regularisation": {"weight decay": ("This is normally set to `0`", {"default": 0})},
    "Optimiser": {"AdamW": ("AdamW is the most commonly used algorithm", {})},
    "BFloat16 vs Float16": {
        "bfloat16": ("If your GPU is compatible, use bfloat16", {}),
        "float16": ("If not, use float16", {}),
        "float32": ("you might have to use float32", {}),
        "overflow": ("the loss falls to 0.0 or NaN", {}),
    },
}


def engine(text: str) -> tuple[Parameters, dict[str, list[str]]]:
    """Document 003: the tables of its definitions, and the values of its enumerations."""
    parameters: Parameters = {}
    values: dict[str, list[str]] = {}
    section = "FineTuneJobSpec"  # our name of its top level
    columns: list[str] = []
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:].strip()
        elif line.startswith("| Property "):
            columns = [cell.strip() for cell in line.strip("| ").split("|")]
        elif line.startswith("| ") and not line.startswith("| -"):
            cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
            row = dict(zip(columns, cells, strict=True))
            described: dict[str, Any] = {"required": True} if row["Required"] else {}
            if default := row.get("Default", ""):
                described["default"] = _literal(default.strip("`"))
            parameters.setdefault(section, {})[row["Property"]] = described
            if row["Property"] == "chat_template_name":
                values["chat_template_name"] = re.findall(r"`([^`]+)`", row["Possible values"])
        elif line.startswith("**Possible Values:**"):
            values[section] = re.findall(r"`([^`]+)`", line)
    return parameters, values


def lamini(text: str) -> Parameters:
    """Document 000: bullets of name, type and default, below a heading for each argument of `tune`."""
    parameters: Parameters = {}
    section = name = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:].strip()
        elif found := re.match(r"- \*\*(\w+)\*\*:? \((.*)\)", line):
            name = found[1]
            parameters.setdefault(section, {})[name] = {"required": True} if "required" in found[2] else {}
        elif (found := re.match(r"\s+- Default: `([^`]*)`", line)) and name:
            parameters[section][name]["default"] = _literal(found[1])
    return parameters


def llmforge(text: str) -> Parameters:
    """Document 001: the YAML blocks of a notebook, and the two parameters that only its text names."""
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"]]
    parameters: Parameters = {}
    for cell in cells:
        title = (re.findall(r"^#+ (.+?)\s*$", cell, re.MULTILINE) or [""])[0]
        for block in re.findall(r"```yaml\n(.*?)```", cell, re.DOTALL):
            for key, value in yaml.safe_load(block).items():
                if key in ("lora_config", "worker_resources"):
                    parameters[key] = {inner: {"default": _number(one)} for inner, one in value.items()}
                else:
                    already = any(key in keys for keys in parameters.values())
                    if not already:
                        parameters.setdefault(title, {})[key] = {"default": _number(value)}
        for name in re.findall(r"`(min_num_\w+)`", cell):
            parameters[title].setdefault(name, {})
        if found := re.search(r"For a context length of (\d+)", cell):
            parameters[title]["context_length"] = {"default": int(found[1])}
    return parameters


def guide(text: str) -> Parameters:
    """Document 002: the items above, each checked against its sentence."""
    for section, items in GUIDE_ITEMS.items():
        for item, (sentence, _) in items.items():
            assert sentence in text, f"{section}, {item}: the guide does not say {sentence!r}"
    return {section: {item: told for item, (_, told) in items.items()} for section, items in GUIDE_ITEMS.items()}


def script(text: str) -> Parameters:
    """Document 004: its bold lists, and the arguments of the calls in its script."""
    parameters: Parameters = {}
    for title, body in re.findall(
        r"### \*\*(Training Hyperparameters|Model Hyperparameters)\*\*\n(.*?)\n\n", text, re.DOTALL
    ):
        parameters[title] = {name: {} for name in re.findall(r"^\d+\. \*\*(.+?)\*\*", body, re.MULTILINE)}
    listed = re.search(r"Common fine-tuning hyperparameters include:\n(.*?)\n\n", text, re.DOTALL)
    assert listed
    parameters["Fine-Tuning Hyperparameters"] = {
        re.sub(r" \(.*", "", name): {} for name in re.findall(r"^- (.+)$", listed[1], re.MULTILINE)
    }
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "model_name"
        ):
            parameters["model"] = {"model_name": {"default": ast.literal_eval(node.value)}}
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        keywords = {one.arg: one.value for one in node.keywords if one.arg}
        if name == "load_dataset":
            path, config = (ast.literal_eval(one) for one in node.args)
            parameters[name] = {"path": {"default": path}, "name": {"default": config}}
        elif name == "tokenizer":
            column = ast.literal_eval(node.args[0].slice)  # type: ignore[attr-defined]
            parameters[name] = {"text column": {"default": column}}
            parameters[name] |= {key: {"default": ast.literal_eval(value)} for key, value in keywords.items()}
        elif name == "TrainingArguments":
            parameters[name] = {key: {"default": ast.literal_eval(value)} for key, value in keywords.items()}
        elif name == "Trainer":
            splits = {key: value for key, value in keywords.items() if key.endswith("_dataset")}
            parameters[name] = {key: {"default": ast.literal_eval(value.slice)} for key, value in splits.items()}  # type: ignore[attr-defined]
        elif name == "save_pretrained":
            owner = node.func.value.id  # type: ignore[attr-defined]
            parameters.setdefault(name, {})[owner] = {"default": ast.literal_eval(node.args[0])}
    return parameters


def _literal(text: str) -> Any:
    """A default as the document prints it: JSON, a Python literal, or plain text."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as text; the document means the number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def main(folder: Path) -> None:
    def text(number: str) -> str:
        (path,) = folder.glob(f"{number}_*")
        return path.read_text(encoding="utf-8")

    definitions, values = engine(text("003"))
    lists = {
        "000": lamini(text("000")),
        "001": llmforge(text("001")),
        "002": guide(text("002")),
        "003": definitions,
        "003-values": {name: {value: {} for value in listed} for name, listed in values.items()},
        "004": script(text("004")),
    }
    for name, parameters in lists.items():
        (HERE / f"{name}.json").write_text(json.dumps(parameters, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {sum(map(len, parameters.values()))} in {len(parameters)} sections")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
