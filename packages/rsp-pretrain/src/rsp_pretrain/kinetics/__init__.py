"""Kinetics-400 from download to labels: every step can be repeated, goes on where it stopped and can be rehearsed."""
