"""Training: clips and objects drawn from videos, simulated prompts, losses, the two stages and the loop around them."""
