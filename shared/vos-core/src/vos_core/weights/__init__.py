"""Checkpoints: a registry of names, downloads that resume and are verified, strict loading."""
