"""The `finetune` command (also `kubectl finetune`): validate, render, run, watch and demo.

Modules import only the standard library at their top: `finetune --help` and `finetune validate` must start in under
half a second, so everything else is imported by the function that needs it.
"""
