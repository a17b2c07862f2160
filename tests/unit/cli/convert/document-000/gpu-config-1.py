gpu_config = {
    "gpus": 4,
    "nodes": 1,
}
