gpu_config = {"gpus": 4, "nodes": 2}  # total 8 GPUs
