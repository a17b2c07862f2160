"""Every reason that a condition, an attempt or an Event of a FineTuneJob may have: what it means, and what to do.

docs/operations.md has this table, and `finetune explain REASON` a line of it. A test looks for reasons in the sources
of the operator and of the trainer and finds each here. Kubernetes' own reasons for the end of a pod (Evicted, Shutdown,
OutOfnvidia.com/gpu and the like) are passed on as they are.
"""

from typing import NamedTuple


class Reason(NamedTuple):
    meaning: str
    remedy: str


NOTHING = "Nothing."
WAIT = "Nothing; it passes by itself."

GOING_ON = {
    "DownloadStarting": Reason("The download Job is made, or its pod is starting.", NOTHING),
    "Downloading": Reason("Model and data are fetched and checked; no GPU is held.", NOTHING),
    "DownloadDeleted": Reason("Someone deleted the download Job; a new one follows.", NOTHING),
    "TryStarting": Reason("The train Job of an attempt is made.", NOTHING),
    "PodStarting": Reason("The train pod is scheduled and starts.", NOTHING),
    "Loading": Reason("The train pod loads model and data.", NOTHING),
    "Training": Reason("It trains; status.progress says how far.", NOTHING),
    "Completed": Reason("The model is on the volume that the message names.", NOTHING),
    "Succeeded": Reason("The job has ended well.", NOTHING),
    "PodsStopping": Reason("Pods of the last attempt are still writing their checkpoint.", NOTHING),
    "Replacing": Reason("The training spec has changed; pods of the earlier training are stopped first.", NOTHING),
    "Retrying": Reason("The next attempt waits for its time; the message says when and why.", NOTHING),
    "Idle": Reason("Of Reconciling: there is nothing left to do.", NOTHING),
    "Proceeding": Reason("Of Stalled: the job gets on by itself.", NOTHING),
    "NotYet": Reason("Of Complete: it has not.", NOTHING),
    "NotFailed": Reason("Of Failed: it has not.", NOTHING),
    "NotSuspended": Reason("Of Suspended: it is not.", NOTHING),
    "Resolved": Reason("Of an optional condition: what it told of is over.", NOTHING),
    "Notices": Reason("Of SettingsAdjusted: something of the spec was adapted; the message says what.", "Read it."),
}
SUSPENSION = {
    "Suspending": Reason("spec.suspend is true; pods write a checkpoint and stop.", NOTHING),
    "SuspendedByUser": Reason("spec.suspend is true.", "Set it to false; training resumes from the newest checkpoint."),
    "Suspended": Reason("Of an attempt: stopped because spec.suspend was set to true. Not counted.", NOTHING),
    "JobSuspended": Reason(
        "Someone else suspended the train Job, often a Kueue that manages Jobs without a queue.",
        "Set the Job's spec.suspend to false, delete the Job to start anew, or make a LocalQueue named default.",
    ),
}
QUEUES = {
    "WaitingForQuota": Reason("The queue has no room yet.", "Wait, or raise workloadPriorityClassName."),
    "WaitingForRequeue": Reason("Kueue took the quota back and tries again at the time named.", WAIT),
    "WaitingForAdmissionChecks": Reason(
        "Quota is reserved; an admission check (provisioning, for instance) is not through.",
        "Look at the checks that the message names.",
    ),
    "Admitted": Reason("The queue let the job start.", NOTHING),
    "Released": Reason("Of QuotaReserved, Admitted and Evicted: the job holds no quota now.", NOTHING),
    "Preempting": Reason("Kueue takes the quota back; pods write a checkpoint.", "Nothing; it resumes."),
    "QueueUnavailable": Reason(
        "queueName is set and the cluster has no Kueue. Quota is never bypassed.",
        "Install Kueue, or apply the job anew without queueName.",
    ),
    "QueueNotResponding": Reason(
        "Kueue is installed and has not taken the Job up.",
        "Check that its controller runs, has batch/job among its frameworks and manages the namespace.",
    ),
    "QueueMissing": Reason("The LocalQueue or ClusterQueue does not exist.", "Create it, or name another."),
    "QueueStopped": Reason("The queue is stopped or inactive.", "Its administrators let it go on (stopPolicy)."),
    "QueueTooSmall": Reason("The job never fits into the queue.", "Ask for less, or name a larger queue."),
    "QueueRefused": Reason("The queue cannot take the job; Kueue's words are in the message.", "Follow them."),
    "WorkloadDeactivated": Reason(
        "The Workload is not active: Kueue gave up after repeated requeues, or someone set it so.",
        "The message has the kubectl patch that puts it back.",
    ),
    "FewerNodes": Reason("Of PartiallyAdmitted: fewer nodes were granted; the total batch stays.", NOTHING),
    "NodesIdle": Reason(
        "Of PartiallyAdmitted: the total batch cannot be spread over all nodes granted; some stand idle.",
        "Choose a total batch, or minNodes, that divides.",
    ),
    "PartiallyAdmitted": Reason("Of an Event: the condition of that name has become True.", "Read the condition."),
}
BLOCKED = {
    "ImagePullFailed": Reason("The image cannot be pulled.", "Check finetuningImage, its tag and imagePullSecrets."),
    "SecretMissing": Reason("A Secret that the spec names does not exist.", "Create it; the pod then starts."),
    "ConfigMapMissing": Reason("A ConfigMap that the spec names does not exist.", "Create it; the pod then starts."),
    "SecretKeyMissing": Reason("A Secret lacks the key that the spec names.", "Add it, or name another."),
    "ConfigMapKeyMissing": Reason("A ConfigMap lacks the key that the spec names.", "Add it, or name another."),
    "ClaimMissing": Reason("A PersistentVolumeClaim that the spec names does not exist.", "Create it."),
    "ServiceAccountMissing": Reason("serviceAccountName does not exist.", "Create it."),
    "ContainerConfigError": Reason(
        "The container cannot be made; the kubelet's words are in the message.", "Correct the key that it names."
    ),
    "Unschedulable": Reason(
        "No node can take the pod now.", "Wait for a node, ask for less, or correct nodeSelector and tolerations."
    ),
    "VolumePending": Reason(
        "A claim has no volume.", "Check storageClass; kubectl describe pvc says why nothing provisions it."
    ),
    "VolumeNodeConflict": Reason(
        "The volume is on a node, or in a zone, where the pod cannot run.",
        "Let nodeSelector match the volume's node, or take a storage class that reaches all nodes.",
    ),
    "VolumeInUse": Reason("Another pod holds the volume.", "Wait for it, or use another claim."),
    "VolumeAttachFailed": Reason(
        "The volume cannot be attached, mostly since another node still holds it.",
        "It passes when that node lets go; else delete the VolumeAttachment of a node that is gone.",
    ),
    "VolumeNotShared": Reason(
        "Several nodes must mount a claim that is not ReadWriteMany.",
        "Move its content to a ReadWriteMany claim, or set nodes: 1.",
    ),
    "VolumeTerminating": Reason("A claim is being deleted; pods that use it hold it.", WAIT),
    "VolumeNotOurs": Reason(
        "A claim of this job's name exists that it did not make.",
        "Set adoptCheckpoints: true to go on with it, delete it, or rename the job.",
    ),
    "QuotaExceeded": Reason("The namespace's ResourceQuota does not allow it.", "Raise it, or ask for less."),
    "PodSecurityRefused": Reason(
        "The namespace's Pod Security level refuses the pod.", "Leave out what the message names (volumes, runtime)."
    ),
    "PodRefused": Reason("The pod cannot be created; an admission webhook, mostly.", "The message has its words."),
    "Forbidden": Reason("A policy, or missing rights of the operator, forbid it.", "Compare the rights below."),
    "Refused": Reason("The API server refused an object of the job.", "The message has its words."),
    "NameTaken": Reason("An object of that name belongs to someone else.", "Delete it, or rename the job."),
    "ObjectTerminating": Reason("An object of that name is being deleted.", WAIT),
    "Recreating": Reason("An object was deleted at this moment and is made again.", NOTHING),
    "NamespaceTerminating": Reason("The namespace is being deleted.", NOTHING),
    "NodeLost": Reason(
        "A pod should have stopped and its node does not say that it has. Nothing may run beside it.",
        "Bring the node back, or delete it; the message has the commands.",
    ),
}
ENDS = {
    "InvalidSpec": Reason(
        "The spec asks for what cannot be, or for what this operator's settings do not allow.",
        "Correct what the message names; finetune validate says the same before applying.",
    ),
    "SpecNoLongerValid": Reason(
        "The job runs, and this operator (upgraded, or with other settings) would not start it. Its pods go on.",
        "Take back the setting, or let it end; the next attempt is refused.",
    ),
    "BadData": Reason("The data cannot be used (exit code 65).", "The message names file and line; correct it."),
    "InputMissing": Reason("A model or data file was not found (66).", "Check basemodel and the data paths."),
    "Unavailable": Reason("A service did not answer (69). Tried again, counted.", "Check bucket and network."),
    "InternalError": Reason("The process failed unexpectedly (70). Tried again, counted.", "Read the pod's log."),
    "Interrupted": Reason("Stopped by a signal after a checkpoint (75). Not counted.", NOTHING),
    "BadConfiguration": Reason("The configuration cannot be used (78).", "Correct what the message names."),
    "OutOfMemory": Reason(
        "The GPU's memory did not suffice (79).",
        "Lower what the message names, or set retryWithSmallerBatch: true.",
    ),
    "ModelTooLarge": Reason(
        "The model itself does not fit into the GPU's memory; no batch would.",
        "A smaller or quantised base, LoRA, more GPUs with sharding.",
    ),
    "VolumeFull": Reason(
        "The work volume is full. Nothing that was complete is lost.",
        "Enlarge the claim, or keep fewer checkpoints (save_total_limit); the job goes on from the newest.",
    ),
    "LossNotFinite": Reason(
        "The loss became infinite or no number.", "Lower the learning rate, clip gradients, or use bf16."
    ),
    "NoProgress": Reason(
        "The watchdog ended an attempt that made no step; its stacks are in the log. Counted only if it left no new "
        "checkpoint.",
        "Read the stacks; a collective that waits for a lost peer is the common cause.",
    ),
    "OutOfHostMemory": Reason("The container passed its memory limit. Tried again, counted.", "Raise memoryPerGpu."),
    "Killed": Reason("SIGKILL from outside. Tried again, counted.", "Look for what killed it on the node."),
    "Error": Reason("An exit code outside the contract. Tried again, counted.", "Read the pod's log."),
    "PodFailed": Reason("The pod failed before its container could end. Counted.", "kubectl describe pod."),
    "PodLost": Reason("The pod was deleted while it ran. Not counted.", NOTHING),
    "JobDeleted": Reason("Someone deleted the train Job. Training resumes in a new one; not counted.", NOTHING),
    "Preempted": Reason("Eviction, drain, preemption or node loss. Not counted; it resumes.", NOTHING),
    "DeadlineExceeded": Reason("The Job's deadline has passed.", "Set a longer one."),
}
TRACKING = {
    "MLflowUnavailable": Reason(
        "The MLflow server does not answer. Training goes on without; the train pod tries again.",
        "Check the server and tracking.mlflow_server_uri.",
    ),
    "Unreachable": Reason("Of MLflowUnavailable: the pod could not reach the server.", "Check address and network."),
    "RunNotCreated": Reason("Of MLflowUnavailable: the operator could not make the run.", "Look at MLflow's log."),
    "SettingsAdjusted": Reason("Of an Event: the condition of that name has become True.", "Read the condition."),
    "Unknown": Reason("Of a condition mirrored from Kueue, which gave no reason.", NOTHING),
}
SECTIONS = {
    "Going on": GOING_ON,
    "Suspended": SUSPENSION,
    "In a queue": QUEUES,
    "Something is missing": BLOCKED,
    "How an attempt, or the job, ended": ENDS,
    "Tracking and notices": TRACKING,
}
REASONS: dict[str, Reason] = {name: reason for section in SECTIONS.values() for name, reason in section.items()}
