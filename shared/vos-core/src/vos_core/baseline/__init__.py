"""Reference points that need no weights: every comparison has its floor."""
