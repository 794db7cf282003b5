"""The pool of pages on and off, in one run: a step's time and page faults, interleaved rounds, medians.

    python benchmarks/pages.py [--rounds 15] [--threads 2]

A step is the loss and its gradient, which dies at the end of it.
"""

import argparse
import resource
import statistics
import time

import torch

import xent
from xent.backends import pages

SHAPES = [(32, 32_000), (64, 32_000), (256, 32_000), (1024, 32_000)]


def measure(rows, classes, rounds):
    """Off and on: medians of milliseconds and of page faults."""
    logits = torch.randn(rows, classes, requires_grad=True)
    target = torch.randint(classes, (rows,))
    found = {0: [], 2**30: []}
    for _ in range(rounds):
        for limit, results in found.items():
            pages._native.limit_pages(limit)
            for _ in range(3):  # two to settle
                faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
                xent.cross_entropy(logits, target).backward()
                logits.grad = None
                took = (time.perf_counter() - start) * 1e3
            results.append((took, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults))
    return [tuple(map(statistics.median, zip(*results, strict=True))) for results in found.values()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads")
    print(f"{'rows x classes':>15} {'MB':>6} {'off ms':>8} {'faults':>8} {'on ms':>8} {'faults':>8}")
    for rows, classes in SHAPES:
        (off, faults_off), (on, faults_on) = measure(rows, classes, args.rounds)
        size = rows * classes * 4 / 1e6
        print(f"{f'{rows}x{classes}':>15} {size:6.1f} {off:8.2f} {faults_off:8.0f} {on:8.2f} {faults_on:8.0f}")


if __name__ == "__main__":
    main()
