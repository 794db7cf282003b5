"""Every case, in the order in which a report has them. A module here is found by its being here."""

from importlib import import_module

from ..case import CASES as CASES

for _name in ("rows", "margins", "masks", "options", "reductions", "labels", "contract", "derivatives", "heads"):
    import_module(f".{_name}", __name__)
