"""Labels: which class one is, which rows are asked for nothing, and a note of what is no class."""

# Triton compiles these functions: a constant may be given as a plain number, and a name bound under a constant.
# pyright: reportArgumentType=false, reportPossiblyUnboundVariable=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl


@triton.jit
def asked_class(target, n, live, ignore_index, V, UNSIGNED: tl.constexpr):
    """Of the rows with the numbers `n`: the label, whether it is not to be ignored, and whether it is a class then."""
    index = tl.load(target + n, mask=live, other=0).to(tl.int64)
    kept = live & (index != ignore_index)
    if UNSIGNED:  # beyond 2**63 - 1 the conversion wraps
        kept = kept | (live & (index < 0))
    return index, kept, kept & (index >= 0) & (index < V)


@triton.jit
def note(flags, n, index, wrong, V):
    """Onto the board that the host looks at: row, label and number of classes; and last, that there is one."""
    slot = flags + (n % 64) * 3
    tl.store(slot + 1, index, mask=wrong)
    tl.store(slot + 2, tl.zeros_like(index) + V, mask=wrong)
    tl.store(slot, n + 1, mask=wrong)
    tl.store(flags + 192 + 0 * n, n + 1, mask=wrong)


@triton.jit(do_not_specialize=["ignore_index", "V", "count"])
def labels(target, flags, out, ignore_index, V, count, UNSIGNED: tl.constexpr, B: tl.constexpr):
    """The class of each label; IGNORED or NO_CLASS of the contract in place of one."""
    n = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    live = n < count
    index, kept, right = asked_class(target, n, live, ignore_index, V, UNSIGNED)
    note(flags, n, index, kept & (right == 0), V)
    tl.store(out + n, tl.where(right, index, tl.where(kept, -2, -1)), mask=live)
