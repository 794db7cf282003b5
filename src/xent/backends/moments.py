"""What rows tell beyond their loss: the moment of their entropy, and how many classes stand above one.

No backend has a kernel of it: tensor operations in blocks serve every device.
"""

import torch
from torch import Tensor

from .blocks import blocks, facts


def spread(rows: Tensor, peak: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """``sum exp(x_j - peak) (x_j - peak)`` and the number of ``x_j > own``, float64, ``(outer, inner)``."""
    moment, above = facts(rows), facts(rows)
    own = own.to(rows.dtype).unsqueeze(1)
    for block in blocks(rows, peak):
        o, i = block.at

        def terms(tile: slice, block=block, o=o, i=i) -> tuple[Tensor, Tensor]:
            shifted, exp = block.exp(tile)
            return (exp * shifted).where(exp != 0, 0.0), (rows[o, tile, i] > own[o, :, i]).to(torch.float64)

        moment[block.at], above[block.at] = block.sums(terms)
    return moment, above


def spread_grad(rows: Tensor, peak: Tensor, rest: Tensor, mean: Tensor, lse: Tensor, entropy: Tensor) -> Tensor:
    """``p_j (lse - entropy (x_j - peak - mean))``, the gradient of both with these factors, in the dtype of the rows.

    With ``mean = sum p_j (x_j - peak)`` the entropy is ``log1p(rest) - mean``, and ``log p_j`` plus it the difference
    in the bracket: a confident row's peak loses no digit. Rows whose factors are 0 are left out.
    """
    out = torch.empty_like(rows)
    for block in blocks(rows, peak):
        centre, by_lse, by_entropy = (t[block.at].unsqueeze(1) for t in (mean, lse, entropy))
        asked = (by_lse != 0) | (by_entropy != 0)
        for tile in block.tiles:
            shifted, exp = block.exp(tile)
            slope = by_lse - (by_entropy * (shifted - centre)).where(by_entropy != 0, 0.0)
            values = exp / (1.0 + rest[block.at]).unsqueeze(1) * slope
            block.write(out, tile, values.where((exp != 0) & asked, 0.0))
    return out
