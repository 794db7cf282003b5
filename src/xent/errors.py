"""What can be wrong with a call, as exception types.

Each type is a :class:`XentError` and also whatever torch raises in the same place, so code that
catches torch's exception keeps working.
"""


class XentError(Exception):
    """Base of every error that xent raises on purpose."""


class TargetError(XentError, IndexError):
    """A label is not a class (torch: ``IndexError``)."""


class ShapeError(XentError, RuntimeError, ValueError):
    """Shapes that do not belong together (torch: ``RuntimeError`` or ``ValueError``, by case)."""


class DimError(XentError, IndexError):
    """A dimension that the tensor does not have (torch: ``IndexError``)."""


class DtypeError(XentError, NotImplementedError):
    """A dtype that the loss is not defined for (torch: ``RuntimeError`` or its ``NotImplementedError``)."""


class LayoutError(XentError, NotImplementedError):
    """A sparse or nested tensor where a strided one belongs (torch: ``NotImplementedError`` or ``RuntimeError``)."""


class ArgumentError(XentError, TypeError):
    """Something that is not of the kind asked for, a list where a tensor belongs, say (torch: ``TypeError``)."""


class OptionError(XentError, ValueError, RuntimeError):
    """An option outside what it can be (torch: ``ValueError`` or ``RuntimeError``, by option)."""


class DeviceError(XentError, RuntimeError):
    """Tensors on different devices, or on one that no backend serves (torch: ``RuntimeError``)."""


class FileError(XentError, OSError):
    """A file that cannot be read as logits and targets (command line: exit code 3)."""


class LoadError(XentError, ImportError):
    """An implementation that cannot be loaded (command line: exit code 3)."""
