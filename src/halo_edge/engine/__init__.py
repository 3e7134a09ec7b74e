"""Sequences, batching, sampling, the decode loop. It is given what computes the FFN."""
