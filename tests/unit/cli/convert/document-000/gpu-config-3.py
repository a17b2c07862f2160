gpu_config = {"gpus": 8, "nodes": 2}  # total 16 GPUs
