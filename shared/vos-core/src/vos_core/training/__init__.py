"""What every training recipe shares: small pieces that a recipe composes, read top to bottom in `loop.py`."""
