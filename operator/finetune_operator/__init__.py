"""The operator: kopf carries events to a queue, reconcile reads live state, a pure plan decides, builders make objects.

Read in this order: transport.py, workqueue.py, reconcile.py, plan/plan.py, builders/.
"""

from .render import render

__all__ = ["render"]
