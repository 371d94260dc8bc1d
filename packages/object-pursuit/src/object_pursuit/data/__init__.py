"""Objects as sets of images with masks: readers of every layout, image preparation, orders and streams, drawn objects."""
