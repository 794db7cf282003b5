"""Every case, in the order in which a report has them: the order of the modules below, and of each module's functions."""

from importlib import import_module

from ..case import CASES as CASES

for _name in ("rows", "margins", "masks", "options", "reductions", "labels", "contract", "derivatives", "heads"):
    import_module(f".{_name}", __name__)
