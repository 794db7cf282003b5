"""The implementations of a cross-entropy that may be installed here, each behind torch's signature.

`CATALOGUE` names those known by name; `find` also takes ``package.module:object``. Nothing foreign is imported before
`Implementation.load`, and xent itself is loaded like any other, through its public door.
"""

from .catalogue import CATALOGUE as CATALOGUE
from .catalogue import find as find
from .implementation import DTYPES as DTYPES
from .implementation import OPTIONS as OPTIONS
from .implementation import SIGNATURES as SIGNATURES
from .implementation import Implementation as Implementation
