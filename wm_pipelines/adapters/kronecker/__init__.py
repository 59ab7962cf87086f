"""The Kronecker adapter that KAdaptation and FlexEControl share."""

from .layer import KroneckerLinear

__all__ = ["KroneckerLinear"]
