"""The walk from logits to loss on the caller's own tensors: data first, print second."""

from .derivation import Caution as Caution
from .derivation import Derivation as Derivation
from .derivation import Entry as Entry
from .derivation import Exact as Exact
from .derivation import Others as Others
from .derivation import Reduction as Reduction
from .derivation import Route as Route
from .derivation import Row as Row
from .derivation import Step as Step
from .derivation import Term as Term
from .walk import explain as explain
