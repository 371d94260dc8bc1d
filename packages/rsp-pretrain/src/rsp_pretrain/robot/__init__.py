"""Behaviour cloning from frozen embeddings: demonstrations, a small policy, rollouts in a simulator (spec 3.5)."""
