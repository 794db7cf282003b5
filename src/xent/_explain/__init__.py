"""The walk from logits to loss on the caller's own tensors: data first, print second."""

from .derivation import Derivation as Derivation
from .parts import Caution as Caution
from .parts import Crowd as Crowd
from .parts import Entry as Entry
from .parts import Exact as Exact
from .parts import Others as Others
from .parts import Reduction as Reduction
from .parts import Route as Route
from .parts import Row as Row
from .parts import Step as Step
from .parts import Term as Term
from .walk import explain as explain
