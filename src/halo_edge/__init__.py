"""HALO Edge: large language models on several small machines joined by an unreliable network."""

__version__ = "0.1.0"
