"""Names of classes: a list, or a tokenizer asked for the few classes that are shown."""

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ArgumentError, OptionError

Name = Callable[[int], str | None]


def of(labels: Any, classes: int) -> Name | None:
    """The name of a class by its number; None where there are no names."""
    if labels is None:
        return None
    if callable(getattr(labels, "convert_ids_to_tokens", None)):  # of Hugging Face: special tokens keep their names
        return _asked(lambda j: labels.convert_ids_to_tokens([j])[0])
    if callable(getattr(labels, "decode", None)):
        return _asked(lambda j: labels.decode([j]))
    if isinstance(labels, (str, bytes)) or not (hasattr(labels, "__len__") and hasattr(labels, "__getitem__")):
        raise ArgumentError(
            f"labels must be the names of the classes, or a tokenizer, got {type(labels).__name__}.\n"
            "  A tokenizer has convert_ids_to_tokens or decode."
        )
    return _listed(labels, classes)


def _listed(labels: Sequence[Any], classes: int) -> Name:
    if len(labels) != classes:
        raise OptionError(
            f"labels has {len(labels):,} names; the logits have {classes:,} classes.\n"
            "  Give one name a class, in their order."
        )
    return lambda j: _visible(labels[j])


def _asked(token: Callable[[int], Any]) -> Name:
    """A head is often wider than its tokenizer: what has no token has no name."""

    def name(j: int) -> str | None:
        try:
            found = token(j)
        except (KeyError, IndexError, ValueError, OverflowError):
            return None
        return None if found is None else _visible(found)

    return name


def _visible(name: Any) -> str:
    """On one line, with what cannot be seen escaped; a space at the front is a letter of many tokens."""
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
    text = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
    bare = text.lstrip(" ")
    return "␣" * (len(text) - len(bare)) + bare
