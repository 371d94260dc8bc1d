"""The streaming runtime: frames in, masks out, bounded memory, resumable."""
