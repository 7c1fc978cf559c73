"""The one exception that a user's input can cause."""


class InputError(ValueError):
    """A config, file or argument that cannot be used.

    The message is one line: what was given, what is allowed, what to do. The command line prints
    it without a traceback and exits with status 1.
    """
