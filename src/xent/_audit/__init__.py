"""A judge for any cross-entropy: cases named after what they break, the truth, and a report."""

from .report import Finding as Finding
from .report import Measured as Measured
from .report import Outcome as Outcome
from .report import Report as Report
from .run import audit as audit
