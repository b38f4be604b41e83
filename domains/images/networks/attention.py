"""Attention in image networks: among pixels, and of pixels to latent tokens."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from core.transformer import Attention


def to_tokens(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
    """Pixels in rows; a view where the image is channels-last."""
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def to_image(tokens: Float[Tensor, "b n c"], height: int) -> Float[Tensor, "b c h w"]:
    """Inverse of ``to_tokens``, as a channels-last view."""
    return tokens.unflatten(1, (height, -1)).permute(0, 3, 1, 2)


def pixel_attention(
    x: Float[Tensor, "b c h w"], qkv: nn.Conv2d, proj: nn.Conv2d, heads: int
) -> Float[Tensor, "b c h w"]:
    """Scaled dot-product attention of all pixels to all, between two 1x1 convolutions.

    The 3C outputs of ``qkv`` are ordered by head, channel of the head, and last by query, key, value, as in EDM's
    weights.
    """
    # Reordered weights give queries, keys and values without a copy of the activations, which are far larger.
    weight = qkv.weight.flatten(1).unflatten(0, (heads, -1, 3)).permute(2, 0, 1, 3).flatten(0, 2)
    bias = None if qkv.bias is None else qkv.bias.unflatten(0, (heads, -1, 3)).permute(2, 0, 1).flatten()
    query, key, value = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2)
        for part in functional.linear(to_tokens(x), weight, bias).chunk(3, dim=-1)
    )
    mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    return to_image(functional.linear(mixed, proj.weight.flatten(1), proj.bias), x.shape[2])


class LatentAttention(nn.Module):
    """x + attention of the normalised pixels to latent tokens (DisCo-Diff 3.3, appendix D.1).

    context: width of the tokens; group: which of the network's token sequences to attend to. With ``zero_init`` it
    starts as the identity, so that latents can be added to a trained network.
    """

    def __init__(self, norm: nn.GroupNorm, heads: int, context: int, group: int, zero_init: bool = True) -> None:
        super().__init__()
        self.group, self.norm = group, norm
        self.attention = Attention(norm.num_channels, heads, context, zero_init)

    def forward(self, x: Float[Tensor, "b c h w"], tokens: Sequence[Tensor]) -> Float[Tensor, "b c h w"]:
        """tokens: [B, L, context] per group."""
        return x + to_image(self.attention(to_tokens(self.norm(x)), tokens[self.group]), x.shape[2])
