"""Kubernetes quantities from the spec's plain numbers."""


def cpus(amount: float) -> str:
    """8 -> "8", 0.5 -> "500m"."""
    return str(int(amount)) if amount == int(amount) else f"{round(amount * 1000)}m"


def gibibytes(amount: float) -> str:
    """64 -> "64Gi", 0.5 -> "512Mi"."""
    return f"{int(amount)}Gi" if amount == int(amount) else f"{round(amount * 1024)}Mi"
