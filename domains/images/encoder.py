"""Image encoder: a Vision Transformer with one extra token per latent (DisCo-Diff section 3.3 and appendix D.1)."""

from core.config import LatentConfig
from core.errors import ConfigError
from core.heads import LatentHead
from core.interfaces import DiscreteEncoder
from core.types import Batch, LatentLogits
from domains.images.torchvision_shim import import_timm


class ViTEncoder(DiscreteEncoder):
    """timm Vision Transformer on the CLEAN image; the output of extra token m gives the logits of latent m.

    name: any timm ViT that takes ``reg_tokens``; latents: their configuration; sizes: timm's
    arguments that override the named model's (embed_dim, depth, num_heads, patch_size), None: not overridden.

    Raises ConfigError for a model that does not exist, takes no extra tokens, or does not fit the images.
    """

    def __init__(self, name: str, resolution: int, channels: int, latents: LatentConfig, **sizes: int | None) -> None:
        super().__init__()
        timm = import_timm()
        if not timm.is_model(name):
            raise ConfigError(f"model.vit.name: timm has no model '{name}'; vit_tiny_patch16_224 is one")
        given = {key: size for key, size in sizes.items() if size is not None}
        try:
            self.vit = timm.create_model(
                name, pretrained=False, img_size=resolution, in_chans=channels, num_classes=0, global_pool="",
                class_token=False, reg_tokens=latents.count, **given,
            )  # fmt: skip
        except TypeError as error:
            raise ConfigError(f"model.vit.name: '{name}' is no ViT that takes extra tokens ({error})") from error
        except (AssertionError, ValueError) as error:  # how timm refuses sizes; a hybrid's patches do so without a word
            reason = error if str(error) else f"patch_size does not fit what its stem makes of {resolution} pixels"
            sizes_used = given or "its own sizes"
            raise ConfigError(f"model.vit: '{name}' with {sizes_used} cannot be the encoder: {reason}") from error
        pixels = self.vit.feature_info[-1]["reduction"]
        if "patch_size" not in given and resolution % pixels:  # timm would leave out the rest of the image
            raise ConfigError(
                f"model.vit.patch_size: {resolution} pixels are no multiple of the {pixels} of '{name}'; set another"
            )
        self.count = latents.count
        self.head = LatentHead(latents, self.vit.embed_dim)

    def forward(self, batch: Batch) -> LatentLogits:
        tokens = self.vit.forward_features(batch.clean["x"])
        return self.head(tokens[:, : self.count])
