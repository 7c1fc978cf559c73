"""Many configurations: in one pass over the images, or as jobs in folders."""
