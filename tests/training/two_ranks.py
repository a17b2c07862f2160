"""Two processes that train several jobs after one another: imports cost more than all of these trainings.

`python two_ranks.py PLAN` runs one rank (RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as the launcher sets them); PLAN
is a JSON list of {config, work, resume, error}: what a run raised is written to `error`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(plan: list[dict[str, Any]]) -> None:
    import torch
    from accelerate.state import AcceleratorState, GradientState, PartialState

    from finetune_trainer.errors import TrainerError
    from finetune_trainer.train.progress import Progress
    from finetune_trainer.train.run import Run
    from finetune_trainer.train.settings import read_job_config, read_settings, read_spec
    from finetune_trainer.train.stopping import Stop

    torch.set_num_threads(1)
    port = int(os.environ["MASTER_PORT"])
    for number, one in enumerate(plan):
        os.environ |= {
            "MASTER_PORT": str(port + number),
            "FINETUNE_WORK_DIR": one["work"],
            "FINETUNE_RESUME": one.get("resume") or "",
        }
        job = read_job_config(one["config"])
        run = Run(read_settings(job, read_spec(job)), Progress(attempt=1), Stop())
        try:
            run.train()
        except TrainerError as error:
            Path(one["error"]).write_text(error.message, encoding="utf-8")
        if run.world is not None:
            run.world.close()
        AcceleratorState._reset_state(True)
        PartialState._reset_state()
        GradientState._reset_state()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
