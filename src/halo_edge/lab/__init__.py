"""The virtual cluster: real packets in network namespaces, and virtual time in a simulator."""
