"""Pictures of paths and of the choice of k, in scikit-learn's convention for displays.

matplotlib is imported when something is drawn, not before.
"""

from .cv import CVDisplay
from .path import PathDisplay

__all__ = ["CVDisplay", "PathDisplay"]
