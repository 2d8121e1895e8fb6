"""Attention of a frozen transformer, with keys and values put before its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Prefix = tuple[Tensor, Tensor]
"""Keys and values (n or 1, length, width) each, as they are after the projection of a block."""

Groups = Sequence[tuple[int, int]]
"""How many rows of which length come one behind the other."""


def attend(
    projected: Tensor, heads: int, mask: Tensor | None = None, prefix: Prefix | None = None
) -> Tensor:
    """Return what each place attends to: (n, length, width).

    Args:
        projected: (n, length, 3 * width), the queries, keys and values of all heads.
        heads: among which the width is divided.
        mask: (n, length) bool, the places that may be attended to; None: all.
        prefix: keys and values that every place may attend to beside. Nothing asks for them, so the
            length stays.
    """
    n, length, width = projected.shape[0], projected.shape[1], projected.shape[2] // 3
    parts = projected.view(n, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    queries, keys, values = parts.unbind()  # (n, heads, length, width / heads) each
    if prefix is not None and prefix[0].shape[1]:
        more = [part.view(*part.shape[:2], heads, -1).transpose(1, 2) for part in prefix]
        keys, values = (
            torch.cat([before.expand(n, -1, -1, -1), own], 2)
            for before, own in zip(more, (keys, values), strict=True)
        )
        if mask is not None:
            mask = F.pad(mask, (prefix[0].shape[1], 0), value=True)
    allowed = None if mask is None else mask[:, None, None, :]
    attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed)
    return attended.transpose(1, 2).reshape(n, length, width)


def attend_in_groups(projected: Tensor, heads: int, groups: Groups) -> Tensor:
    """Return what each token attends to, of rows that are one behind the other: (1, m, width).

    Args:
        projected: (1, m, 3 * width); places behind the last row are of no account.
        heads: among which the width is divided.
        groups: of the rows.
    """
    sizes = [n * length for n, length in groups]
    rest = projected.shape[1] - sum(sizes)
    parts = torch.split(projected[0], [*sizes, rest])
    attended = [
        attend(part.view(n, length, -1), heads).flatten(0, 1)
        for part, (n, length) in zip(parts[:-1], groups, strict=True)
    ]
    behind = projected.new_zeros(rest, projected.shape[2] // 3)
    return torch.cat([*attended, behind])[None]
