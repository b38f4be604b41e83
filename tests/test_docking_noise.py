"""Noise whose torsion norms are a table of the model's own."""

import math

import pytest
import torch
from torch import Tensor

from core.config_file import parse_config
from core.errors import DataError
from core.registry import get_domain
from domains.docking.noise import TABLE_SIZE, DockingNoise, TabledNoise, table_levels


def test_a_model_that_never_got_a_table_scales_by_the_exact_norms() -> None:
    raw = {"domain": "docking", "latents": {"kind": "none"}, "model": {"noise": {"torsion_norms": "table"}}}
    domain = get_domain("docking")(parse_config(raw, "test"))
    scale, exact = domain.denoiser().to(torch.bfloat16).scale, DockingNoise()
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    for ours, theirs in zip(scale.score_norms(t), exact.score_norms(t), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=7e-3, atol=0)
    rows = ((table_levels() / 0.03).log() / math.log(3.14 / 0.03)).clamp(0, 1).unique()[1:-1]  # at a row: exact
    torch.testing.assert_close(scale.score_norms(rows)[2], exact.score_norms(rows)[2], rtol=1e-9, atol=0)


@pytest.mark.parametrize("table", [torch.ones(10), torch.zeros(TABLE_SIZE), torch.full((TABLE_SIZE,), math.nan)])
def test_a_torsion_table_is_checked_once(table: Tensor) -> None:
    with pytest.raises(DataError, match="5001 values"):
        TabledNoise(DockingNoise(), table)


def test_a_torsion_table_is_cut_off_at_its_ends() -> None:
    wide = DockingNoise(tor=(1e-3, 10.0))
    scale = TabledNoise(wide, torch.arange(1, TABLE_SIZE + 1) ** 2)
    assert scale.score_norms(torch.tensor([0.0, 1.0]))[2].tolist() == [1, TABLE_SIZE]
