"""What ``run.py mode=NAME`` does: one file a mode, each with a ``run(config, folder)``."""
