"""Every case, in the order of a report: that of the modules below, and of the functions in each."""

from importlib import import_module

from ..case import CASES as CASES

for _name in ("rows", "margins", "masks", "options", "reductions", "labels", "contract", "derivatives", "heads"):
    import_module(f".{_name}", __name__)
