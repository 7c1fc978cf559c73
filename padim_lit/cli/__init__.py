"""The command line: config, modes, and what is built from them."""
