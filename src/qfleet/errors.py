"""The one exception that speaks to the user: what was given, what is wrong, what would work."""


class QfleetError(Exception):
    """A mistake in what was asked for, or a fault of the machine; one line, never a bug of ours.

    The command line prints it without a traceback and exits with code 2.
    """


class NonFiniteError(QfleetError):
    """A NaN or infinite reward, observation or loss was about to reach the values."""


class DamagedError(QfleetError):
    """A file of a run is truncated, altered or missing."""


class FleetError(QfleetError):
    """A worker died, hung or could not be started."""
