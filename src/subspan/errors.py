"""Named errors and warnings (layer 0).

Every message says what is wrong and what to do about it.
"""

from __future__ import annotations


class SubspanError(Exception):
    """Base class of the errors that subspan raises on purpose."""


class InvalidInputError(SubspanError, ValueError):
    """The data or a parameter cannot be used as given."""


class DataNotFoundError(SubspanError, FileNotFoundError):
    """A data set or a file that was asked for is not there."""


class SelfExpressionError(SubspanError, ArithmeticError):
    """The self-expression system could not be solved."""


class DivergenceError(SubspanError, ArithmeticError):
    """A loss term or a weight became NaN, infinite or far too large during training."""


class ResourceError(SubspanError, MemoryError):
    """An allocation would not fit; raised before it is tried."""


class CheckpointError(SubspanError, RuntimeError):
    """A checkpoint or model folder is missing, damaged or from another configuration."""


class CollapseWarning(UserWarning):
    """Most clusters became empty during training."""


class IsolationWarning(UserWarning):
    """Many samples are neither expressed by others nor express them: spectral clustering cannot place them."""


class SizingWarning(UserWarning):
    """A network was resized to meet a constraint of the method (for example d > 9k)."""
