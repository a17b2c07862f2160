"""How many nodes run: a queue may start a Job with fewer than were asked for (minNodes), and the arithmetic follows.

The pods learn it when they meet (trainer_image, rendezvous.py), by the same function of finetune_api.
"""

from finetune_api.batch import nodes_that_train

from .context import Context


def granted_nodes(context: Context) -> int:
    """The nodes of the running Job, or those asked for."""
    job = context.live_train_job
    if job is None or (job.get("spec") or {}).get("suspend"):
        return context.request.nodes
    return int((job.get("spec") or {}).get("parallelism") or context.request.nodes)


def partial_admission(context: Context) -> tuple[str, str] | None:
    """Reason and message of the condition while fewer nodes run than were asked for."""
    request, granted = context.request, granted_nodes(context)
    if granted >= request.nodes:
        return None
    total, processes = request.resolved.total_batch, request.processes
    training = nodes_that_train(granted, processes, total)
    said = f"the queue has granted {granted} of {request.nodes} nodes"
    if training == granted:
        return "FewerNodes", f"{said}; the total batch of {total} stays the same"
    return "NodesIdle", (
        f"{said}; the total batch of {total} cannot be spread over {granted} x {processes} processes, so "
        f"{training} nodes train and {granted - training} stand idle"
    )
