"""Data sets as lists of clips, one file per layout."""
