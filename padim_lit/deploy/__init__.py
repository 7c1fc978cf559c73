"""What is done with a fitted detector: prediction, thresholds, merging, export."""
