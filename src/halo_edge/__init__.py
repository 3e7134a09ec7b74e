"""HALO Edge: large language models on several small machines joined by an unreliable network."""

import os

__version__ = "0.1.0"

# Here because OpenMP reads it once, when the first import of ggml loads it.
# ggml's OpenMP threads would spin between graphs for milliseconds, and a device that waits for the
# network would burn its cores (and, with several devices on one machine, everybody else's). So
# they sleep, but not before some 0.1 ms: inside a graph they meet at a barrier every few
# microseconds, and sleeping there costs half the speed (two threads, SmolLM2: 54 tokens/s against
# 107).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
