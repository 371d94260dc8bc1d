"""One self-contained page for runs and comparisons."""
