"""Bytes to arrays and back: frames, masks, palettes, run-length codes, videos. Knows no data set."""
