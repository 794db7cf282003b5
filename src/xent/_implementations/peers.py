"""How each of the catalogue is loaded, and put behind torch's signature. A peer is imported here and nowhere else,
by its name, when it is asked for."""

import os
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LoadError
from .implementation import Loss, only
from .outside import Evaluated, evaluated


def xent() -> Loss:
    return import_module("xent").cross_entropy


def xent_linear() -> Loss:
    return import_module("xent").linear_cross_entropy


def torch_eager() -> Loss:
    return F.cross_entropy


def torch_compile() -> Loss:
    """Compiled for every kind of call: torch stops after eight and takes the eager one without a word."""
    compiled, config = torch.compile(F.cross_entropy), import_module("torch._dynamo.config")

    def loss(input: Tensor, target: Tensor, **options: Any) -> Tensor:
        with config.patch(recompile_limit=10_000):
            return compiled(input, target, **options)

    return loss


def torch_linear() -> Loss:
    """In chunks; without `options` torch makes all the logits."""
    chunked: Any = torch.nn.LinearCrossEntropyOptions()

    def loss(input: Tensor, head: Tensor, target: Tensor, **options: Any) -> Tensor:
        return F.linear_cross_entropy(input, head, target, options=chunked, **options)

    return loss


def liger() -> Loss:
    function = import_module("liger_kernel.transformers.functional").liger_cross_entropy

    def loss(input: Tensor, target: Tensor, **options: Any) -> Tensor:
        result = function(input, target, **options)
        return result[0] if isinstance(result, tuple) else result

    return loss


def liger_linear() -> Loss:
    function = import_module("liger_kernel.transformers.functional").liger_fused_linear_cross_entropy

    def loss(input: Tensor, head: Tensor, target: Tensor, **options: Any) -> Tensor:
        bias, weight = options.pop("linear_bias", None), options.pop("weight", None)
        result = function(input, head, target, bias=bias, ce_weight=weight, **options)
        return result[0] if isinstance(result, tuple) else result

    return loss


def cce() -> Loss:
    function = import_module("cut_cross_entropy").linear_cross_entropy

    def loss(input: Tensor, head: Tensor, target: Tensor, **options: Any) -> Tensor:
        bias, ignored, reduction = only(options, linear_bias=None, ignore_index=-100, reduction="mean")
        extra = {} if bias is None else {"bias": bias}
        return function(input, head, target, ignore_index=ignored, reduction=reduction, **extra)

    return loss


def trl() -> Loss:
    """The head that its trainers install: log-probabilities of the labels, a chunk of the classes at a time."""
    function = getattr(import_module("trl.trainer.utils"), "_ChunkedLogProbFunction", None)
    if function is None:
        raise LoadError("trl has no _ChunkedLogProbFunction here; 1.16 has one.")

    def loss(input: Tensor, head: Tensor, target: Tensor, **options: Any) -> Tensor:
        bias, reduction = only(options, linear_bias=None, reduction="mean")
        outputs = function.apply(input, head, bias, target, 1.0, 2048, None, 1.0, ())
        losses = -(outputs[0] if isinstance(outputs, tuple) else outputs)
        return {"none": losses, "sum": losses.sum(), "mean": losses.mean()}[reduction]

    return loss


def keras() -> Loss:
    """On torch, unless the environment says otherwise; another framework of Keras has no gradient for torch."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    losses = import_module("keras").losses

    def loss(input: Tensor, target: Tensor, **options: Any) -> Tensor:
        ignored, reduction, smoothing = only(options, ignore_index=-100, reduction="mean", label_smoothing=0.0)
        how = {"reduction": {"mean": "sum_over_batch_size"}.get(reduction, reduction), "from_logits": True}
        if input.dtype is torch.float64:  # what its losses compute in is float32 otherwise, as its users have it
            how["dtype"] = "float64"
        if smoothing and "ignore_index" in options:
            raise NotImplementedError("not offered: ignore_index with label_smoothing")
        if target.is_floating_point():
            return losses.CategoricalCrossentropy(label_smoothing=smoothing, **how)(target, input)
        if smoothing:
            asked = F.one_hot(target.long(), input.shape[1]).to(input.dtype)
            return losses.CategoricalCrossentropy(label_smoothing=smoothing, **how)(asked, input)
        return losses.SparseCategoricalCrossentropy(ignore_class=ignored, **how)(target, input)

    return loss


def optax() -> Loss:
    jax, library = import_module("jax"), import_module("optax")
    array = jax.numpy.asarray
    wide = jax.enable_x64 if hasattr(jax, "enable_x64") else import_module("jax.experimental").enable_x64

    def evaluate(input: Tensor, target: Tensor, reduction: str) -> Evaluated:
        def reduced(logits: Any) -> Any:
            if target.is_floating_point():
                losses = library.softmax_cross_entropy(logits, array(_numbers(target), dtype=logits.dtype))
            else:
                losses = library.softmax_cross_entropy_with_integer_labels(logits, array(target.numpy()))
            return {"none": losses, "sum": losses.sum(), "mean": losses.mean()}[reduction]

        def gradient(upstream: Tensor) -> Any:
            with wide(input.dtype is torch.float64):
                return pull(array(_numbers(upstream), dtype=value.dtype))[0]

        with wide(input.dtype is torch.float64):
            value, pull = jax.vjp(reduced, array(_numbers(input), dtype=_name(input)))
        return value, gradient

    return evaluated(evaluate)


def tensorflow() -> Loss:
    library = import_module("tensorflow")

    def evaluate(input: Tensor, target: Tensor, reduction: str) -> Evaluated:
        logits = library.constant(_numbers(input), dtype=_name(input))
        with library.GradientTape() as tape:
            tape.watch(logits)
            if target.is_floating_point():
                asked = library.constant(_numbers(target), dtype=_name(input))
                losses = library.nn.softmax_cross_entropy_with_logits(labels=asked, logits=logits)
            else:
                asked = library.constant(target.numpy())
                losses = library.nn.sparse_softmax_cross_entropy_with_logits(labels=asked, logits=logits)
            reduce = {"none": lambda x: x, "sum": library.reduce_sum, "mean": library.reduce_mean}[reduction]
            value = reduce(losses)

        def gradient(upstream: Tensor) -> Any:
            return tape.gradient(value, logits, library.constant(_numbers(upstream), dtype=value.dtype)).numpy()

        return value.numpy(), gradient

    return evaluated(evaluate)


def sklearn() -> Loss:
    """`log_loss` of torch's softmax: it takes probabilities, and has no gradient."""
    log_loss = import_module("sklearn.metrics").log_loss

    def loss(input: Tensor, target: Tensor, **options: Any) -> Tensor:
        only(options)
        value = log_loss(target.numpy(), input.detach().softmax(1).numpy(), labels=range(input.shape[1]))
        return torch.tensor(float(value), dtype=input.dtype)

    return loss


def _numbers(tensor: Tensor) -> Any:
    """As a numpy array; float64 holds every narrower number, and numpy has no bfloat16."""
    return tensor.detach().double().numpy()


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
