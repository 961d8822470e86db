"""The one exception that a user is meant to read."""


class GlmcError(Exception):
    """A user's mistake, told in one paragraph: what, where, why, what to do next.

    The command line prints the message and exits with 2. Anything else that escapes
    is a bug of ours and keeps its stack trace.
    """
