"""Root and worker processes, transports, membership, shard store and loader."""
