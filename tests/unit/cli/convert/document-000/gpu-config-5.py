gpu_config = {"gpus": 9, "nodes": 1}  # total 8 GPUs, assuming max GPUs per node is 8
