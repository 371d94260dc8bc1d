"""Scores of the official evaluators, equal to the last bit, streamed and multi-process."""
