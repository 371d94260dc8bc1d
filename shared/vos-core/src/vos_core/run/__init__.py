"""Inference: the streaming session, its sinks, resuming, workers."""
