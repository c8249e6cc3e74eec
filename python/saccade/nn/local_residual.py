"""InLine attention's local residual: a depthwise filter made from the mean token. Source and status: `inline.py`."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class LocalResidual(nn.Module):
    """A 3 x 3 depthwise filter over the grid of tokens, its weights made from the mean token of each sample.

    x (B, N, C), v (B, N, C), grid (rows, columns) -> (B, N, C); tokens before the grid's (class tokens) get 0.
    Args: width C; heads H, the groups of the two 1 x 1 convolutions C -> C -> 9 C, channel c having outputs 9c .. 9c+8.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.make = nn.Sequential(
            nn.Conv1d(width, width, 1, groups=heads), nn.GELU(), nn.Conv1d(width, 9 * width, 1, groups=heads)
        )

    def forward(self, x: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        batch, tokens, width = v.shape
        first = tokens - grid[0] * grid[1]
        if first < 0:
            raise ValueError(
                f"LocalResidual: grid: got {grid[0]} x {grid[1]}, wanted at most {tokens} places; pass (rows, columns)"
            )
        filters = self.make(x.mean(1)[..., None]).view(batch * width, 1, 3, 3)
        image = v[:, first:].transpose(1, 2).reshape(1, batch * width, *grid)
        y = F.conv2d(image, filters, padding=1, groups=batch * width).view(batch, width, -1).transpose(1, 2)
        return F.pad(y, (0, 0, first, 0))
