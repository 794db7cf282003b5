"""The implementations installed here, side by side: times, floors, peaks and errors, as data; then rendered."""

from .compare import Comparison as Comparison
from .compare import compared as compared
from .results import Measurements as Measurements
from .run import bench as bench
