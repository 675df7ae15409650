"""Errors that are meant for the person at the keyboard."""


class UserError(Exception):
    """Bad input, told in a message that the CLI prints without a traceback.

    It names the value, what is allowed, and the next step.
    """


class Preempted(BaseException):
    """Raised when a stop was asked for (SIGTERM) and all finished work is saved.

    The CLI exits with 75 (`EX_TEMPFAIL`: try again). Derives from BaseException so that no `except
    Exception` on the way takes it for a failure.
    """
