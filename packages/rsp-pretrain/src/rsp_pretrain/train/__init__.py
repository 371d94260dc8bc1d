"""Pre-training: schedule, options, one run."""
