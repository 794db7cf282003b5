"""The true loss and gradient of a call, by arithmetic that shares nothing with what it judges.

Every number is a ball of python-flint's Arb at 170 bits, with a proven radius, or mpmath's at 200 bits where flint is
not installed. Never float64: at a margin of 40 nats its own autograd is 0. A result is handed out as the unevaluated
sum of two float64, some 106 bits, so that an error in ulp can be taken with torch.
"""

from .head import HeadTruth as HeadTruth
from .head import head_truth as head_truth
from .numbers import Exact as Exact
from .numbers import arithmetic as arithmetic
from .rows import Truth as Truth
from .rows import truth as truth
from .ulp import Worst as Worst
from .ulp import unit as unit
from .ulp import worst as worst
