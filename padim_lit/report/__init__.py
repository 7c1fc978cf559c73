"""What a run leaves behind: predictions, heat maps, the closing table and the table of a sweep."""
