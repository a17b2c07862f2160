gpu_config = {"gpus": 8, "nodes": 1}  # total 8 GPUs
