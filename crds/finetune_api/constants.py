"""Names that more than one room must agree on: labels, paths in pods, ports, environment variables, exit codes.

They live beside the API because the operator writes them, the trainer obeys them, the CLI shows them and the charts
mirror them. Changing one is a change of contract: docs/contracts.md says who reads it.
"""

from enum import IntEnum

GROUP = "finetune-operator.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
SHORT_NAMES = ("ftj",)
MAX_NAME_LENGTH = 40

FIELD_MANAGER = "finetune-operator"
MANAGED_BY = "finetune-operator"

# Labels on every child object.
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_JOB = f"{GROUP}/job"  # the FineTuneJob's name
LABEL_JOB_UID = f"{GROUP}/job-uid"
LABEL_ROLE = f"{GROUP}/role"  # one of ROLE_*
LABEL_TRY = f"{GROUP}/try"  # "1", "2", … on the objects of one try
LABEL_MODEL_KEY = f"{GROUP}/model-key"  # on a model cache PVC
ROLE_DOWNLOAD = "download"
ROLE_TRAIN = "train"
ROLE_CACHE = "model-cache"
ROLE_CHECKPOINTS = "checkpoints"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
LABEL_WORKLOAD_PRIORITY = "kueue.x-k8s.io/priority-class"
ANNOTATION_MIN_PARALLELISM = "kueue.x-k8s.io/job-min-parallelism"
ANNOTATION_COMPLETIONS_FOLLOW = "kueue.x-k8s.io/job-completions-equal-parallelism"
LABEL_WORKLOAD_JOB_UID = "kueue.x-k8s.io/job-uid"  # on Kueue's Workload of a Job

# Paths inside download and train pods.
CONFIG_DIR = "/etc/finetune"
CONFIG_FILE = "/etc/finetune/job.json"
MODEL_DIR = "/local_resources/basemodel"  # document 003's default of run_conf.model
MODEL_CACHE_DIR = "/local_resources/cache"  # the whole cache volume, in the download pod only
WORK_DIR = "/workdir"  # the job's own volume (the checkpoint PVC)
DATA_DIR = "/workdir/data"
CHECKPOINTS_DIR = "/workdir/checkpoints"
RECORDS_DIR = "/workdir/records"
LOGS_DIR = "/workdir/logs"
PVC_MOUNT_DIR = "/mnt/pvc"  # /mnt/pvc/<claim>
CONFIGMAP_MOUNT_DIR = "/mnt/configmap"  # /mnt/configmap/<name>
DATASET_MOUNT_DIR = "/mnt/dataset"  # /mnt/dataset/<name>: the ConfigMap of a named dataset
SHM_DIR = "/dev/shm"
TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LOG_LIMIT = 4096  # bytes; the kubelet cuts what is longer
COMPLETION_MARKER = "_COMPLETE.json"  # written last into a checkpoint, a model cache entry and an exported model

# Rank 0 serves /progress and /metrics here, on the pod's own address.
PROGRESS_PORT = 8080
PROGRESS_PORT_NAME = "progress"
PROGRESS_MAX_BYTES = 65536

# Node 0's launcher listens here for those of the other nodes (ENV_RENDEZVOUS may name another port).
RENDEZVOUS_PORT = 29400

# Environment of download and train pods.
ENV_CONFIG = "FINETUNE_CONFIG"  # path of the configuration file, CONFIG_FILE in pods
ENV_ATTEMPT = "FINETUNE_ATTEMPT"  # the try's number, from 1
ENV_RESUME = "FINETUNE_RESUME"  # "auto" from the second attempt on: overrides run_conf.resume_from_checkpoint
ENV_POD_IP = "POD_IP"
ENV_POD_NAME = "POD_NAME"
ENV_NODE_NAME = "NODE_NAME"
ENV_GPUS = "FINETUNE_GPUS"  # processes per node
ENV_NODES = "FINETUNE_NODES"  # nodes that the job asks for; absent means one, and no rendezvous
ENV_MIN_NODES = "FINETUNE_MIN_NODES"  # with how many it may start when the queue grants no more; absent: all
ENV_RENDEZVOUS = "FINETUNE_RENDEZVOUS"  # node 0's name in the headless service, where the launchers meet
ENV_NODE_INDEX = "JOB_COMPLETION_INDEX"  # which node this is; Kubernetes sets it in an Indexed Job
ENV_GRACE = "FINETUNE_GRACE_SECONDS"  # terminationGracePeriodSeconds
ENV_WORK_DIR = "FINETUNE_WORK_DIR"  # WORK_DIR in pods; `finetune run` sets another
ENV_MODEL_DIR = "FINETUNE_MODEL_DIR"  # MODEL_DIR in pods, likewise
ENV_MODEL_CACHE_DIR = "FINETUNE_MODEL_CACHE_DIR"  # MODEL_CACHE_DIR in pods, likewise
ENV_TERMINATION_LOG = "FINETUNE_TERMINATION_LOG"  # TERMINATION_LOG in pods, likewise
ENV_PROGRESS_PORT = "FINETUNE_PROGRESS_PORT"  # instead of PROGRESS_PORT; 0 serves nothing
ENV_WATCHDOG = "FINETUNE_WATCHDOG_SECONDS"  # stepTimeoutSeconds
ENV_MLFLOW_URI = "MLFLOW_TRACKING_URI"
ENV_MLFLOW_RUN_ID = "MLFLOW_RUN_ID"
ENV_SECRETS = "FINETUNE_SECRET_ENV"  # names, with commas between, of the variables that came from Secrets
ENV_JOB_NAME = "FINETUNE_JOB_NAME"
ENV_JOB_NAMESPACE = "FINETUNE_JOB_NAMESPACE"
ENV_JOB_UID = "FINETUNE_JOB_UID"


class ExitCode(IntEnum):
    """What a trainer or download process says by its exit code (after sysexits.h; 79 is ours)."""

    OK = 0
    BAD_DATA = 65  # EX_DATAERR: fails the job, a retry would fail alike
    INPUT_MISSING = 66  # EX_NOINPUT: fails the job
    UNAVAILABLE = 69  # EX_UNAVAILABLE: a service did not answer; retried with backoff
    INTERNAL = 70  # EX_SOFTWARE: an unexpected error; retried
    INTERRUPTED = 75  # EX_TEMPFAIL: SIGTERM, checkpoint written; resumed, never counted
    BAD_CONFIG = 78  # EX_CONFIG: fails the job
    OUT_OF_MEMORY = 79  # the GPU's memory did not suffice; fails the job with advice


# The reason of a report (exit code 75) of an attempt that its own watchdog ended. Unlike one that was told to stop it
# counts as a failure if it left no new checkpoint: the next would hang at the same place.
REASON_NO_PROGRESS = "NoProgress"

FATAL_EXIT_CODES = (ExitCode.BAD_DATA, ExitCode.INPUT_MISSING, ExitCode.BAD_CONFIG)
