"""The HTML page and the figures of a sweep."""
