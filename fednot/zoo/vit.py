"""A vision transformer (Dosovitskiy et al., ICLR 2021) with the shape that NoT's author used.

The defaults are those of CoUn (Khalil et al. 2025, App. E.2) for images of 32 by 32: patch 4, dim
512, MLP 1024, 12 heads of 64, depth 6, dropout 0.1. NoT negates the positional embedding and the
patch projection there.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn


class Attention(nn.Module):
    """Self-attention over tokens [N, tokens, dim], with the LayerNorm before it."""

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.output = nn.Linear(heads * head_dim, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[N, tokens, dim] of tokens [N, tokens, dim], without the residual."""
        parts = self.qkv(self.norm(tokens)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0
        )
        output: torch.Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output


class Block(nn.Module):
    """A transformer block: attention and an MLP, each with its LayerNorm before and a residual."""

    def __init__(self, dim: int, heads: int, head_dim: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, head_dim, dropout)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, mlp_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_dim, dim),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[N, tokens, dim] of tokens [N, tokens, dim]."""
        tokens = tokens + self.attention(tokens)
        output: torch.Tensor = tokens + self.mlp(tokens)
        return output


class VisionTransformer(nn.Module):
    """Patches, a class token and a learned positional embedding, then `depth` blocks and a head.

    Images [N, in_channels, image_size, image_size] in, logits [N, num_classes] out. Raises
    ValueError if the patch does not divide the image.
    """

    first_layers: ClassVar[tuple[str, ...]] = ("pos_embedding", "patch_projection.weight")

    def __init__(
        self,
        *,
        in_channels: int = 3,
        image_size: int = 32,
        patch: int = 4,
        num_classes: int = 10,
        dim: int = 512,
        depth: int = 6,
        heads: int = 12,
        head_dim: int = 64,
        mlp_dim: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if image_size % patch:
            raise ValueError(f"a patch of {patch} does not divide an image of {image_size}")
        self.patch = patch
        tokens = (image_size // patch) ** 2
        patch_dim = in_channels * patch**2
        self.pos_embedding = nn.Parameter(torch.randn(1, tokens + 1, dim))
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.patch_norm = nn.LayerNorm(patch_dim)
        self.patch_projection = nn.Linear(patch_dim, dim)
        self.embedding_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(Block(dim, heads, head_dim, mlp_dim, dropout) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, num_classes] of images [N, in_channels, image_size, image_size]."""
        patches = nn.functional.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        tokens = self.embedding_norm(self.patch_projection(self.patch_norm(patches)))
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.blocks(self.dropout(tokens + self.pos_embedding))
        logits: torch.Tensor = self.head(self.norm(tokens[:, 0]))
        return logits
