"""Files that a fit leaves: what they hold, how they are read and written."""
