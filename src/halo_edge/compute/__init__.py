"""ggml graphs: attention, an FFN shard, the head; and the threads that run them."""
