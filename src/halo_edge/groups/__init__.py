"""Neuron groups: partition of the FFN into groups, and the shards cut from them."""
