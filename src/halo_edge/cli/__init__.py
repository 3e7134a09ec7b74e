"""The `halo` command: arguments, printing, exit codes, and nothing else."""

import os

# Before numpy is loaded. What it multiplies here is small, and between rounds; more threads of its
# own would only spin beside ggml's.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
