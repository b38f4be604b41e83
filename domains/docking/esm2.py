"""ESM-2 (Lin et al., Science 2023, https://doi.org/10.1126/science.ade2574): the network, and its weights from disk.

Two layouts are read: the Hugging Face folder (``config.json`` with ``model.safetensors`` or ``pytorch_model.bin``) and
the authors' ``esm2_*.pt`` (fair-esm). The network is small enough to stand here: nothing has to be installed for it,
nothing can be downloaded by accident, and the names of its parameters are those of the authors' file.
"""

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from core.errors import CheckpointError, RequestError
from core.files import sha256

ALPHABET = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")
# The share of tokens that masking zeroed in training, 15 % of which 80 %; without masks the rest is scaled down to it.
TOKEN_SCALE = 1 - 0.15 * 0.8
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
WHERE_TO_GET = (
    "put the folder of facebook/esm2_t33_650M_UR50D from Hugging Face (config.json and model.safetensors) or the file"
    " esm2_t33_650M_UR50D.pt of fair-esm there; nothing is downloaded"
)
# Hugging Face's names, in ours.
RENAMES = (
    (r"^esm\.", ""),
    (r"\.gamma$", ".weight"),  # the norms, as some versions write them
    (r"\.beta$", ".bias"),
    (r"^embeddings\.word_embeddings\.", "embed_tokens."),
    (r"^encoder\.emb_layer_norm_after\.", "emb_layer_norm_after."),
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.self\.(query|key|value)\.", r".self_attn.\1."),
    (r"\.attention\.output\.dense\.", ".self_attn.out."),
    (r"\.attention\.LayerNorm\.", ".self_attn_layer_norm."),
    (r"\.intermediate\.dense\.", ".fc1."),
    (r"\.output\.dense\.", ".fc2."),
    (r"^(layers\.\d+)\.LayerNorm\.", r"\1.final_layer_norm."),
)
# The authors' names, in ours.
AUTHORS_RENAMES = (
    (r"^encoder\.(sentence_encoder\.)?", ""),
    (r"\.self_attn\.q_proj\.", ".self_attn.query."),
    (r"\.self_attn\.k_proj\.", ".self_attn.key."),
    (r"\.self_attn\.v_proj\.", ".self_attn.value."),
    (r"\.self_attn\.out_proj\.", ".self_attn.out."),
)


@dataclass(frozen=True)
class ESM2Shape:
    """``width`` numbers per residue, ``layers`` Transformer layers of ``heads`` heads; ``eps`` of the layer norms."""

    width: int
    layers: int
    heads: int
    eps: float = 1e-5


class _Layer(nn.Module):
    """x + attention(norm x), then x + mlp(norm x), with rotary positions (Su et al., https://arxiv.org/abs/2104.09864)."""

    def __init__(self, shape: ESM2Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.self_attn_layer_norm = nn.LayerNorm(width, shape.eps)
        self.self_attn = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value", "out")})
        self.final_layer_norm = nn.LayerNorm(width, shape.eps)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b l w"], angles: Float[Tensor, "l half"]) -> Float[Tensor, "b l w"]:
        normed = self.self_attn_layer_norm(x)
        query, key, value = (
            self.self_attn[name](normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(_rotate(query, angles), _rotate(key, angles), value)
        x = x + self.self_attn["out"](mixed.transpose(1, 2).flatten(2))
        out: Tensor = x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x))))
        return out


def _rotate(x: Float[Tensor, "b h l d"], angles: Float[Tensor, "l half"]) -> Float[Tensor, "b h l d"]:
    """Number i of the first half and number i of the second are one plane, turned by the angle of the position."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class ESM2(nn.Module):
    """Tokens [B, L] -> the normalised output of the last layer [B, L, width]. No padding: rows are of one length."""

    def __init__(self, shape: ESM2Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(len(ALPHABET), shape.width)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.emb_layer_norm_after = nn.LayerNorm(shape.width, shape.eps)

    def forward(self, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b l w"]:
        half = self.shape.width // self.shape.heads // 2
        frequencies = 10000.0 ** (-torch.arange(half, device=tokens.device, dtype=torch.float32) / half)
        angles = torch.arange(tokens.shape[1], device=tokens.device, dtype=torch.float32)[:, None] * frequencies
        x = TOKEN_SCALE * self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, angles)
        out: Tensor = self.emb_layer_norm_after(x)
        return out


@dataclass(frozen=True)
class ESM2Files:
    """Weights on disk, known to fit: ``file`` holds them, in the authors' layout or (``hugging_face``) the other."""

    file: Path
    shape: ESM2Shape
    hugging_face: bool

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the weights, and the shape: two models with one identity compute the same."""
        return f"{sha256(self.file)} {self.shape}"

    def load(self) -> ESM2:
        """The network in float32, for evaluation. Raises CheckpointError for damaged or unfitting weights."""
        state = _read(self.file) if self.hugging_face else _read(self.file)["model"]
        found = _renamed(state, RENAMES if self.hugging_face else AUTHORS_RENAMES)
        with torch.device("meta"):
            network = ESM2(self.shape)
        expected = network.state_dict()
        missing = [name for name, value in expected.items() if name not in found or found[name].shape != value.shape]
        if missing:
            raise CheckpointError(
                f"{self.file}: {len(missing)} of {len(expected)} tensors of an ESM-2 of {self.shape} are missing or of"
                f" another shape ({missing[0]}, ...): it is another model or damaged; {WHERE_TO_GET}"
            )
        network.load_state_dict({name: found[name].float() for name in expected}, assign=True)
        return network.eval().requires_grad_(False)


def find_esm2(path: Path) -> ESM2Files:
    """The weights in a folder, or an ``esm2_*.pt`` itself; reads headers only.

    Raises RequestError where there is no model or it is not an ESM-2, CheckpointError where a file is damaged.
    """
    authors = [path] if path.is_file() and path.suffix == ".pt" else sorted(path.glob("esm2_*.pt"))
    authors = [file for file in authors if not file.stem.endswith("-contact-regression")]
    weights = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
    if weights and (path / "config.json").is_file():
        return ESM2Files(weights[0], _hugging_face_shape(path / "config.json"), True)
    if len(authors) > 1:
        raise RequestError(
            f"{path}: several models ({', '.join(file.name for file in authors)}): name one of the files"
        )
    if authors:
        return ESM2Files(authors[0], _authors_shape(authors[0]), False)
    raise RequestError(f"{path}: no ESM-2 language model; {WHERE_TO_GET}")


def _hugging_face_shape(path: Path) -> ESM2Shape:
    try:
        config = json.loads(path.read_text())
        kind = [config[key] for key in ("model_type", "position_embedding_type", "token_dropout", "vocab_size")]
        shape = ESM2Shape(
            config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"], config["layer_norm_eps"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not the configuration of an ESM-2 ({error!r}); {WHERE_TO_GET}") from error
    if kind != ["esm", "rotary", True, len(ALPHABET)] or config.get("emb_layer_norm_before"):
        raise RequestError(f"{path}: {config['model_type']} model, but not an ESM-2; {WHERE_TO_GET}")
    return shape


def _authors_shape(path: Path) -> ESM2Shape:
    content = _read(path)
    try:
        options = content["cfg"]["model"]
        return ESM2Shape(options.encoder_embed_dim, options.encoder_layers, options.encoder_attention_heads)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not an ESM-2 of fair-esm ({error!r}); {WHERE_TO_GET}") from error


def _read(path: Path) -> Any:
    """Content of a file of weights, never running code from it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # The authors' file keeps its options in a Namespace: a plain container.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read ({reason}): damaged? {WHERE_TO_GET}") from error


def _renamed(state: Mapping[str, Tensor], renames: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    def ours(name: str) -> str:
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        return name

    return {ours(name): value for name, value in state.items()}
