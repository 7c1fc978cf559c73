"""A page over a folder of results, with no account and no server."""
