"""Writes everything that derives from the models: `python -m finetune_api.generate [--check]`.

The CRD, the chart's copy of it, the job chart's values schema, docs/reference, and the field snapshots of
transformers and PEFT. With --check nothing is written and any drift is an error. The snapshots need those libraries;
--skip-snapshots leaves them as they are.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOTS = "crds/finetune_api/snapshots"


def snapshot_files() -> dict[str, str]:
    """Path -> content of the field snapshots, from the installed libraries."""
    from finetune_api.generator import snapshots

    return {
        f"{SNAPSHOTS}/training_arguments.json": snapshots.to_text(snapshots.take_training_arguments()),
        f"{SNAPSHOTS}/peft_configs.json": snapshots.to_text(snapshots.take_peft_configs()),
        f"{SNAPSHOTS}/dpo_config.json": snapshots.to_text(snapshots.take_dpo_config()),
    }


def derived_files() -> dict[str, str]:
    """Path -> content of all that derives from the models and the stored snapshots."""
    from finetune_api.generator import parameters_page, reasons_page, reference, reference_adapters, values_schema
    from finetune_api.generator.chart_crd import chart_crd
    from finetune_api.generator.crd import crd_text, spec_schema, status_schema

    crd, spec = crd_text(), spec_schema()
    return {
        "crds/finetunejobs.yaml": "# Generated from finetune_api by `make generate`; do not edit.\n" + crd,
        "charts/finetune-operator/templates/crd.yaml": chart_crd(crd),
        "charts/finetune-job/values.schema.json": values_schema.to_text(values_schema.values_schema(spec)),
        "docs/reference/finetunejob-spec.md": reference.spec_page(spec),
        "docs/reference/finetunejob-status.md": reference.status_page(status_schema()),
        "docs/reference/training-args.md": reference.training_args_page(),
        "docs/reference/parameters.md": parameters_page.parameters_page(spec),
        "docs/reference/adapters.md": reference_adapters.adapters_page(),
        "docs/operations.md": reasons_page.operations_page(),
    }


def drifted(files: Mapping[str, str], root: Path = ROOT) -> list[str]:
    """The paths whose content on disk is not the generated one."""
    return [path for path, text in files.items() if not _same(root / path, text)]


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def write(files: Mapping[str, str], root: Path = ROOT) -> list[str]:
    """Writes what differs; returns those paths."""
    changed = drifted(files, root)
    for path in changed:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(files[path], encoding="utf-8")
    return changed


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, or 1 if --check found drift."""
    parser = argparse.ArgumentParser(prog="python -m finetune_api.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if anything differs")
    parser.add_argument("--skip-snapshots", action="store_true", help="do not look at transformers and PEFT")
    options = parser.parse_args(arguments)
    if options.check:
        drift = drifted({} if options.skip_snapshots else snapshot_files()) + drifted(derived_files())
        for path in drift:
            print(f"{path} is not what the models say; run make generate", file=sys.stderr)
        return 1 if drift else 0
    if not options.skip_snapshots and write(snapshot_files()):
        # The models are built from the snapshots at import: start over with the new ones.
        os.execv(sys.executable, [sys.executable, "-m", "finetune_api.generate", "--skip-snapshots"])
    for path in write(derived_files()):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
