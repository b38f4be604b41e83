"""Sheets of pictures and the page of codes: what is on them, and that the page needs and can use no network."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from core.errors import DataError, RequestError, StorageError
from core.interfaces import Denoiser
from core.latents import CodeUsage
from core.pipeline import Pipeline, Request
from core.precondition import PreconditionedDenoiser
from core.types import Latents
from domains.images import browser as page_module
from domains.images.browser import write_browser
from domains.images.domain import ImageDomain
from domains.images.networks.song import SongSettings, SongUNet
from domains.images.networks.tokens import LatentSettings
from domains.images.pictures import Sheets, Survey, contents, displayable, draw, group_count, survey, swapped
from domains.images.write import grid, to_bytes
from domains.toy.domain import ToyDomain
from tests.browser import CHROMIUM, NO_BROWSER, Page, browser
from tests.support import tiny_config

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
EVIL = '<img src=x onerror="window.evil=1"></script><script>window.evil=2</script>\'&amp;{{data}}'
LIMITS = Request(count=2, batch_size=64)


class Small(ImageDomain):
    """Untrained image models of any size, groups of latents included."""

    size: tuple[int, int, int] = (1, 8, 8)
    groups: tuple[int, ...] = ()
    number_of_classes = 10

    @property
    def classes(self) -> int:  # type: ignore[override]
        return self.number_of_classes

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"x": self.size}

    def denoiser(self) -> Denoiser:
        channels, resolution, _ = self.size
        latents, settings = self.config.latents, None
        if latents.kind != "none":
            settings = LatentSettings(latents.count, latents.codes, 16, 1, 2, groups=self.groups, zero_init=False)
        unet = SongSettings(
            resolution, channels, channels, self.classes, model_channels=8, channel_mult=(1, 1),
            num_blocks=1, attn_resolutions=(resolution, resolution // 2),
        )  # fmt: skip
        return PreconditionedDenoiser(SongUNet(unet, settings), self.precondition())


def stirred(network: nn.Module) -> nn.Module:
    """No layer is left at its zero start, so that everything has an influence."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def model(kind: str = "discrete", latents: int = 4, domain: type[ImageDomain] = Small, **changes: Any) -> Pipeline:
    """changes: of ``Small``."""
    torch.manual_seed(0)
    overrides = [f"latents.kind={kind}", f"latents.count={latents}", "model.class_drop=0", "sampling.steps=2"]
    made = type("Changed", (domain,), changes)(tiny_config("images", overrides))
    return Pipeline(made, {name: stirred(build()) for name, build in made.parts().items()}, name="tiny")


@pytest.fixture(scope="module")
def plain() -> Pipeline:
    return model()


@pytest.fixture(scope="module")
def grouped() -> Pipeline:
    return model(groups=(4, 8))


COLUMNS = 3


@pytest.fixture(scope="module")
def plain_sheets(plain: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sheets of three columns, one pixel as one pixel, by name."""
    return {path.stem: path for path in draw(plain, tmp_path_factory.mktemp("plain"), COLUMNS, 1)}


@pytest.fixture(scope="module")
def grouped_sheets(grouped: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.stem: path for path in draw(grouped, tmp_path_factory.mktemp("grouped"), COLUMNS, 1)}


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def sheet(rows: list[Tensor]) -> np.ndarray:
    return grid(to_bytes(torch.cat(rows)), COLUMNS)[0].numpy()


def images_of(pipeline: Pipeline, codes: Tensor, first: int = 0) -> Tensor:
    """What a user gets for these codes [COLUMNS, M], digits 0, 3 and 6."""
    return pipeline.generate(count=COLUMNS, first=first, codes=codes, label=torch.tensor([0, 3, 6])).state["x"]


def sources(pipeline: Pipeline) -> list[Tensor]:
    """Codes [COLUMNS, M] of the rows of new samples."""
    rows = [pipeline.generate(count=COLUMNS, first=COLUMNS * row, label=torch.tensor([0, 3, 6])) for row in range(4)]
    return [row.latents.codes for row in rows if row.latents is not None]


@pytest.mark.parametrize(
    ("changes", "names", "pixels"),
    [
        ({"kind": "none", "size": (3, 16, 16), "number_of_classes": 20}, {"samples"}, (10, 3 * 17, 3)),
        (
            {"kind": "gaussian", "size": (2, 8, 8), "number_of_classes": 2},
            {"samples", "shared-latents", "swapped-latents"},
            (2, 54, 6),
        ),
        ({"latents": 1, "number_of_classes": 3}, {"samples", "shared-latents"}, (3, 54, 6)),
        (
            {"groups": (4, 8), "number_of_classes": 0},
            {"samples", "shared-latents", "swapped-group-1", "swapped-group-2", "resampled-after-group-1"},
            (10, 54, 6),
        ),
    ],
)
def test_sheets_have_their_names_and_sizes(
    tmp_path: Path, changes: dict[str, Any], names: set[str], pixels: tuple[int, int, int]
) -> None:
    files = draw(model(**changes), tmp_path)
    assert {path.stem for path in files} == names
    columns, picture, gap = pixels
    for path in files:
        image = Image.open(path)
        assert image.size == (columns * picture + gap, 4 * picture + gap)
        assert image.mode == ("L" if changes.get("size", (1,))[0] == 1 else "RGB")


def test_columns_and_scale_are_as_asked_for(tmp_path: Path) -> None:
    (path,) = draw(model("none"), tmp_path, columns=3, scale=2)
    assert Image.open(path).size == ((3 * 9 + 1) * 2, (4 * 9 + 1) * 2)


def test_the_same_seed_gives_the_same_bytes(plain: Pipeline, plain_sheets: dict[str, Path], tmp_path: Path) -> None:
    again, other = draw(plain, tmp_path / "a", COLUMNS, 1), draw(plain, tmp_path / "b", COLUMNS, 1, seed=1)
    assert [path.stem for path in again] == list(plain_sheets)
    for path, different in zip(again, other, strict=True):
        assert path.read_bytes() == plain_sheets[path.stem].read_bytes() != different.read_bytes()


def test_samples_are_those_of_the_pipeline(plain: Pipeline, plain_sheets: dict[str, Path]) -> None:
    rows = [images_of(plain, codes, COLUMNS * row) for row, codes in enumerate(sources(plain))]
    assert np.array_equal(read(plain_sheets["samples"]), sheet(rows))


def test_few_columns_spread_over_many_classes() -> None:
    labels = Sheets(model(number_of_classes=1000), 4).conditions(1).label
    assert labels is not None
    assert labels.tolist() == [0, 250, 500, 750]


def test_a_row_shares_one_latent_vector(plain: Pipeline, plain_sheets: dict[str, Path]) -> None:
    rows = [images_of(plain, codes.expand(COLUMNS, -1)) for codes in torch.cat(sources(plain))[:4]]
    assert np.array_equal(read(plain_sheets["shared-latents"]), sheet(rows))


@pytest.mark.parametrize("group", [0, 1])
def test_swapping_a_group_swaps_its_codes_and_nothing_else(
    grouped: Pipeline, grouped_sheets: dict[str, Path], group: int
) -> None:
    a, b = sources(grouped)[:2]
    a_with_b, b_with_a = a.clone(), b.clone()
    for slot in (2 * group, 2 * group + 1):
        a_with_b[:, slot], b_with_a[:, slot] = b[:, slot], a[:, slot]
    rows = [images_of(grouped, codes) for codes in (a, a_with_b, b_with_a, b)]
    assert np.array_equal(read(grouped_sheets[f"swapped-group-{group + 1}"]), sheet(rows))
    assert not torch.equal(rows[0], rows[1])


def test_halves_are_swapped_where_there_are_no_groups(plain: Pipeline, plain_sheets: dict[str, Path]) -> None:
    a, b = sources(plain)[:2]
    mixed = [a, torch.cat([a[:, :2], b[:, 2:]], 1), torch.cat([b[:, :2], a[:, 2:]], 1), b]
    assert np.array_equal(read(plain_sheets["swapped-latents"]), sheet([images_of(plain, codes) for codes in mixed]))


def test_swapping_twice_changes_nothing() -> None:
    values = torch.nn.functional.one_hot(torch.arange(12).reshape(2, 2, 3) % 4, 4).float()
    a, b = (Latents(part, torch.ones(2, dtype=torch.bool)) for part in values)
    _, first, second, _ = swapped(a, b, slice(1, 2))
    _, *back, _ = swapped(first, second, slice(1, 2))
    assert [part.codes.tolist() for part in back] == [a.codes.tolist(), b.codes.tolist()]


def test_resampling_keeps_the_first_groups_and_draws_the_others_anew(
    grouped: Pipeline, grouped_sheets: dict[str, Path]
) -> None:
    a, sheets = sources(grouped)[0], Sheets(grouped, COLUMNS)
    assert sheets.drawn[0] is not None
    rows = [latents.codes for latents in sheets.resampled(sheets.drawn[0], 2)]
    assert torch.equal(rows[0], a)
    assert all(torch.equal(row[:, :2], a[:, :2]) for row in rows)
    assert len({str(row[:, 2:].tolist()) for row in rows}) > 1
    expected = sheet([images_of(grouped, row) for row in rows])
    assert np.array_equal(read(grouped_sheets["resampled-after-group-1"]), expected)


def test_groups_are_found_in_the_network(plain: Pipeline, grouped: Pipeline) -> None:
    assert [group_count(plain), group_count(grouped), group_count(model("none"))] == [1, 2, 1]


@pytest.mark.parametrize(("channels", "shown"), [(1, [0]), (2, [0, 1, None]), (3, [0, 1, 2]), (4, [0, 1, 2])])
def test_any_number_of_channels_can_be_shown(channels: int, shown: list[int | None]) -> None:
    images = torch.rand(2, channels, 3, 3)
    expected = [torch.full((2, 3, 3), -1.0) if c is None else images[:, c] for c in shown]
    assert torch.equal(displayable(images), torch.stack(expected, dim=1))


def toy_model() -> Pipeline:
    domain = ToyDomain(tiny_config("toy"))
    return Pipeline(domain, {name: build() for name, build in domain.parts().items()})


def test_models_of_other_things_are_refused(tmp_path: Path) -> None:
    for function in (lambda: draw(toy_model(), tmp_path), lambda: survey(toy_model())):
        with pytest.raises(RequestError, match="'toy' model, which makes no images: use disco diagnose"):
            function()


@pytest.mark.parametrize(
    ("kind", "message"), [("none", "no latents: 'disco sample'"), ("gaussian", "not codes: 'disc")]
)
def test_models_without_codes_have_no_page(kind: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        survey(model(kind))


def test_a_model_without_a_prior_says_so() -> None:
    pipeline = model()
    bare = Pipeline(pipeline.domain, {name: net for name, net in pipeline.networks.items() if name != "prior"})
    with pytest.raises(RequestError, match="no prior yet"):
        survey(bare)


@pytest.fixture(scope="module")
def found(plain: Pipeline) -> Survey:
    return survey(plain, LIMITS, codes=3, images=50)


def test_a_code_is_drawn_as_the_pipeline_draws_it(plain: Pipeline, found: Survey) -> None:
    fixed = torch.full((4,), -1)
    for (slot, code), pictures in found.pictures.items():
        fixed[:] = -1
        fixed[slot] = code
        direct = plain.generate(count=2, codes=fixed)
        assert direct.latents is not None
        assert direct.latents.codes[:, slot].tolist() == [code, code]
        assert (pictures.int() - to_bytes(direct.state["x"]).int()).abs().max() <= 1
    assert (found.free.int() - to_bytes(plain.generate(count=2).state["x"]).int()).abs().max() <= 1
    assert found.labels == (0, 1)


def test_the_most_frequent_codes_are_shown(plain: Pipeline, found: Survey) -> None:
    data = plain.domain.dataset("val")
    indices = [i * len(data) // 50 for i in range(50)]
    codes = plain.encode(data.load(indices, range(50))).codes
    for slot in range(4):
        counts = torch.bincount(codes[:, slot], minlength=4)
        assert found.usage.frequency[slot].tolist() == pytest.approx((counts / 50).tolist())
        expected = [c for c in counts.argsort(descending=True, stable=True).tolist() if counts[c]][:3]
        assert found.codes(slot) == expected
    assert found.source == "50 real images (val), read by the encoder"


def test_codes_are_counted_on_the_prior_where_there_is_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = model()

    def missing(split: str) -> None:
        raise DataError(f"no {split}")

    monkeypatch.setattr(pipeline.domain, "dataset", missing)
    seen = survey(pipeline, LIMITS, codes=1, images=30)
    drawn = pipeline.latents_for(Request(), pipeline.domain.request(range(30)))
    assert seen.source == "30 draws of the prior"
    assert drawn is not None
    assert torch.equal(seen.usage.frequency[0], torch.bincount(drawn.codes[:, 0], minlength=4).double() / 30)


def test_nearest_codes_are_those_with_the_nearest_pictures() -> None:
    def flat(level: int) -> Tensor:
        return torch.full((2, 1, 3, 3), level, dtype=torch.uint8)

    usage = CodeUsage(torch.full((1, 4), 0.25, dtype=torch.float64))
    pictures = {(0, 3): flat(0), (0, 1): flat(255), (0, 0): flat(51), (0, 2): flat(102)}
    near = Survey(usage, "", None, flat(0), pictures).nearest(0, 2)
    assert [code for code, _ in near[3]] == [0, 2]
    assert [apart for _, apart in near[3]] == pytest.approx([0.2, 0.4])
    assert [code for code, _ in near[1]] == [2, 0]


@pytest.fixture(scope="module")
def told(plain: Pipeline, found: Survey) -> dict[str, Any]:
    return contents(found, plain, LIMITS)


def embedded(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_the_page_holds_every_picture(told: dict[str, Any], found: Survey, tmp_path: Path) -> None:
    page = write_browser(told, tmp_path / "latents.html").read_text()
    data = embedded(page)
    assert data == json.loads(json.dumps(told))

    def pixels(address: str) -> np.ndarray:
        head, _, body = address.partition(",")
        assert head == "data:image/png;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(body, validate=True))))

    assert len(data["latents"]) == 4
    for slot, latent in enumerate(data["latents"]):
        assert latent["perplexity"] == pytest.approx(float(found.usage.perplexity[slot]))
        for entry in latent["codes"]:
            pictures = found.pictures[slot, entry["code"]]
            assert [pixels(a).tolist() for a in entry["pictures"]] == pictures[:, 0].tolist()
    assert [pixels(a).tolist() for a in data["free"]] == found.free[:, 0].tolist()
    assert data["columns"] == ["class 0", "class 1"]


def test_colour_pictures_stay_so() -> None:
    usage = CodeUsage(torch.ones(1, 1, dtype=torch.float64))
    image = torch.arange(2 * 27, dtype=torch.uint8).reshape(2, 3, 3, 3)
    seen = contents(Survey(usage, "", None, image, {(0, 0): image}), model(), Request(first=7))
    png = base64.b64decode(seen["free"][1].partition(",")[2])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), image[1].permute(1, 2, 0).numpy())
    assert seen["columns"] == ["sample 7", "sample 8"]


def test_the_page_is_the_same_again(plain: Pipeline, told: dict[str, Any], tmp_path: Path) -> None:
    again = contents(survey(plain, LIMITS, codes=3, images=50), plain, LIMITS)
    first, second = (write_browser(c, tmp_path / f"{i}.html") for i, c in enumerate((told, again)))
    assert first.read_bytes() == second.read_bytes()


def test_the_page_asks_no_network_and_runs_only_its_own_script(told: dict[str, Any], tmp_path: Path) -> None:
    page = write_browser(told, tmp_path / "latents.html").read_text()
    assert set(re.findall(r"\w+://[^\s\"'`]+", page)) <= {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert set(re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', page)) == {"data:,"}
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("img-src") == "data:"
    for element in ("style", "script"):
        (text,) = re.findall(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules.pop(f"{element}-src") == f"'sha256-{digest}'"
    assert rules == {"base-uri": "'none'", "form-action": "'none'"}


def hostile(told: dict[str, Any]) -> dict[str, Any]:
    return {**told, "model": EVIL, "columns": [EVIL] * 2, "facts": [[EVIL, EVIL]]}


def test_hostile_text_stays_text(told: dict[str, Any], tmp_path: Path) -> None:
    page = write_browser(hostile(told), tmp_path / "latents.html").read_text()
    assert embedded(page)["columns"] == [EVIL, EVIL]
    assert page.count("<script") == 2
    assert "<img src=x" not in page
    assert page.count("{{data}}") == 6  # five times in the data and once in the title, nowhere filled in


def run(*arguments: str | Path) -> Any:
    command = typer.Typer()
    command.command()(page_module.latents)
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=True)


def test_the_command_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "start_logging", lambda quiet: None)
    folder, out = tmp_path / "tiny", tmp_path / "new" / "latents.html"
    model(domain=ImageDomain, latents=2).save_pretrained(folder)
    small = ("--per-code", "2", "--codes", "2", "--images", "20", "--steps", "2", "--class", "3", "--device", "cpu")
    result = run(folder, "-o", out, *small)
    assert result.exit_code == 0, result.output
    data = embedded(out.read_text())
    pipeline, request = Pipeline.from_pretrained(folder, "cpu"), replace(LIMITS, label=3, steps=2)
    assert data == json.loads(json.dumps(contents(survey(pipeline, request, 2, 20), pipeline, request)))
    assert (data["model"], data["columns"]) == ("tiny", ["class 3", "class 3"])
    assert all(0 < len(latent["codes"]) <= 2 for latent in data["latents"])


def test_a_folder_is_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "start_logging", lambda quiet: None)
    result = run(tmp_path, "-o", tmp_path)
    assert isinstance(result.exception, StorageError)
    assert "name the page, as in -o" in str(result.exception)


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser() as page:
        yield page


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False)])
def test_the_page_opens_offline_and_fits(
    tab: Page, told: dict[str, Any], tmp_path: Path, width: int, dark: bool
) -> None:
    tab.requests.clear()
    path = write_browser(hostile(told), tmp_path / "latents.html")
    tab.open(path, width, 800, dark)
    assert tab.run("document.querySelector('h1').textContent") == f"Latents of {EVIL}"
    assert tab.run("document.title") == f"Latents of {EVIL}"
    assert tab.run("[...document.images].every((image) => image.complete && image.naturalWidth === 8)")
    assert tab.run("document.querySelectorAll('#pictures img').length") == 2
    assert tab.run("document.documentElement.scrollWidth") <= width
    dark_ground = "getComputedStyle(document.body).backgroundColor === 'rgb(17, 22, 28)'"
    assert tab.run(dark_ground) is dark
    assert tab.run("window.evil") is None
    assert tab.errors == []
    assert [address for address in tab.requests if not address.startswith(("data:", "about:"))] == [path.as_uri()]


@needs_browser
def test_keys_choose_latent_and_code(tab: Page, told: dict[str, Any], tmp_path: Path) -> None:
    tab.open(write_browser(told, tmp_path / "latents.html"), 360, 480)
    heading = "document.querySelector('#chosen').textContent"
    slot = next(s for s in range(1, 4) if len(told["latents"][s]["codes"]) > 1)
    tab.run("document.querySelector('#latents input').focus()")
    for _ in range(slot):
        tab.press("ArrowRight")
    first, second = told["latents"][slot]["codes"][:2]
    assert tab.run(heading).startswith(f"Latent {slot}, code {first['code']}: ")
    tab.run("document.querySelector('#codes input').focus()")
    tab.press("ArrowRight")
    assert tab.run(heading).startswith(f"Latent {slot}, code {second['code']}: ")
    assert tab.run("[...document.querySelectorAll('#pictures img')].map((i) => i.src)") == second["pictures"]
    assert tab.run("document.querySelectorAll('#chart rect.chosen').length") == 1
    near = second["near"][0][0]
    tab.run("document.querySelector('#table button').click()")
    assert tab.run(heading).startswith(f"Latent {slot}, code {near}: ")
    assert tab.run("document.activeElement.value") == str(near)
    rows = tab.run(
        "[...document.querySelectorAll('#table tbody tr')].map((r) => [...r.querySelectorAll('img')].map((i) => i.src))"
    )
    by_code = {entry["code"]: entry for entry in told["latents"][slot]["codes"]}
    others = [by_code[code]["pictures"] for code, _ in by_code[near]["near"]]
    assert rows == [by_code[near]["pictures"], *others, told["free"]]
    assert tab.errors == []
