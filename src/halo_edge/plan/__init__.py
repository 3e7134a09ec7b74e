"""Who computes which neuron groups. Pure functions: no socket, clock, thread, or random source."""
