"""What should happen to one FineTuneJob next: pure functions of what was seen, no I/O, no clock, no client.

Each file is one decision with a table test of its own; plan.py puts them in order. `finetune render` and the operator
call the same code.
"""
