"""Families of logits, each named after what it breaks. A family makes ``(logits, labels)`` of a shape."""

import math

import torch

FAMILIES = {}


def family(breaks: str):
    def register(make):
        make.breaks = breaks
        FAMILIES[make.__name__] = make
        return make

    return register


def _labels(n, v, g):
    return torch.randint(0, v, (n,), generator=g)


@family("exp of a rounded difference: some 60 ulp far below the peak")
def spread(n, v, g):
    return torch.randn(n, v, generator=g, dtype=torch.float64) * 10, _labels(n, v, g)


@family("nothing in particular")
def ordinary(n, v, g):
    return torch.randn(n, v, generator=g, dtype=torch.float64), _labels(n, v, g)


@family("log(1 + tiny) and p - 1: margins of 0 to 80 nats for the label")
def confident_and_right(n, v, g):
    logits, labels = torch.randn(n, v, generator=g, dtype=torch.float64), _labels(n, v, g)
    margin = torch.rand(n, 1, generator=g, dtype=torch.float64) * 80 + logits.amax(1, keepdim=True)
    return logits.scatter(1, labels.unsqueeze(1), margin), labels


@family("a label 0 to 80 nats below the peak")
def confident_and_wrong(n, v, g):
    logits, labels = confident_and_right(n, v, g)
    return logits, (labels + 1) % v


@family("which of two equal peaks is left out of the sum")
def ties(n, v, g):
    logits = torch.randn(n, v, generator=g, dtype=torch.float64).round() * 0.5
    return logits, logits.argmax(1)


@family("near ties: log1p(rest) where rest is close to 1")
def near_ties(n, v, g):
    logits, labels = confident_and_right(n, v, g)
    second = (labels + 1) % v
    peak = logits.gather(1, labels.unsqueeze(1))
    return logits.scatter(1, second.unsqueeze(1), peak * (1 - 2.0**-20)), labels


@family("lse - x[y]: an offset eats the fraction")
def offset(n, v, g):
    logits, labels = spread(n, v, g)
    return logits + 1e4, labels


@family("the same, where every difference is 0 or beyond exp")
def huge_offset(n, v, g):
    logits, labels = ordinary(n, v, g)
    return logits + 1e30, labels


@family("exp(-inf - -inf): most classes masked")
def masked(n, v, g):
    logits, labels = spread(n, v, g)
    mask = torch.rand(n, v, generator=g) < 0.7
    mask.scatter_(1, labels.unsqueeze(1), False)
    return logits.masked_fill(mask, -math.inf), labels
