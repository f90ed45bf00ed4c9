"""Bad inputs of everything that follows pictures: each ends in a sentence, and the next good request draws as before.

A whole studio of tiny networks with random weights: real engines, ControlNet, IP-Adapter, LoRA, a multiview network.
Ordinary pictures that look odd to a program (16 bits, CMYK, palettes, a camera held sideways) are no bad inputs: they
must come out with the right pixels.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image, ImageDraw

from studio import conditions
from studio.catalog import Catalog
from studio.conditions import CannyLevels, ControlUnit, InitialImage, Reference, ViewsOf
from studio.engine.diffusion import DiffusionEngine
from studio.engine.multiview import WonderEngine
from studio.errors import StudioError
from studio.gpu import DeviceLease
from studio.history import History
from studio.multiviews import Multiviews
from studio.services import Services
from studio.settings import Settings
from studio.types import GenerationResult
from tests.multiview.tiny_views import write_studio
from tests.studio_process import StudioProcess
from tests.test_inputs import animation, photo, png, png_header, saved
from tests.tiny import tiny_controlnet, tiny_ip_adapter, tiny_lora

CONTROLS = """
[canny]
title = "Tiny canny"
kind = "controlnet"
origin = "builtin"
family = "sd15"
source = "control"
annotator = "canny"

[ip]
title = "Tiny IP-Adapter"
kind = "ip_adapter"
origin = "builtin"
family = "sd15"
source = "ip"
file = "adapter.safetensors"
image_encoder = "image_encoder"

[canny-xl]
title = "Canny of another family"
kind = "controlnet"
origin = "hub"
family = "sdxl"
source = "nobody/canny-xl"
"""
SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A studio's folder: assets and presets."""
    folder = tmp_path_factory.mktemp("bad")
    assets, presets = write_studio(folder)
    (presets / "controls.toml").write_text(CONTROLS)
    tiny_controlnet(assets / "control", assets / "tiny")
    tiny_ip_adapter(assets / "ip", assets / "tiny")
    tiny_lora(assets / "lora", assets / "tiny")
    return folder


@dataclass(frozen=True, kw_only=True)
class Studio:
    """The services, and kept pictures to build requests of."""

    services: Services
    views: Multiviews
    scratch: Path
    map: str
    picture: str
    even: str
    black: str
    thing: str

    def file(self, content: bytes, name: str = "picture.png") -> Path:
        """A file as it was uploaded."""
        path = self.scratch / name
        path.write_bytes(content)
        return path

    def unit(self, **changes: Any) -> ControlUnit:
        return ControlUnit(**{"control": "canny", "image": self.map, **changes})

    def draw(self, **choices: Any) -> bytes:
        """The pixels of a request, resolved and drawn."""
        chosen = {"prompt": "a red cube", "steps": 1, "guidance": 1.0, "seed": 3, **choices}
        return _pixels(self.services.generate(self.services.resolve(**chosen), previews=False))

    def draw_views(self, **choices: Any) -> bytes:
        """The pixels of a sheet of views."""
        chosen = {"steps": 1, "seed": 3, "views_of": ViewsOf(image=self.thing), **choices}
        return _pixels(self.views.draw(self.views.resolve(**chosen), previews=False))

    def good(self) -> bytes:
        """A good request of all conditions at once."""
        reference = Reference(adapter="ip", image=self.picture)
        initial = InitialImage(image=self.picture, strength=1.0)
        return self.draw(controls=(self.unit(),), references=(reference,), initial=initial)


def _pixels(events: Any) -> bytes:
    *_, result = events
    assert isinstance(result, GenerationResult)
    assert result.images[0].history_id is not None
    return result.images[0].image.tobytes()


@pytest.fixture(scope="module")
def studio_of_bad(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    data = tmp_path_factory.mktemp("data")
    settings = Settings(data_dir=data, assets_dir=folder / "assets", presets_dir=folder / "presets", offline=True)
    catalog = Catalog.load(settings.presets_dir)
    where: dict[str, Any] = {
        "assets_dir": settings.assets_dir, "device": "cpu", "dtype": "fp32", "hub_cache": data / "hub", "offline": True
    }  # fmt: skip
    with (
        History(data) as history,
        closing(DiffusionEngine(catalog, open_picture=history.inputs.open, **where)) as engine,
        closing(WonderEngine(catalog, **where)) as views,
    ):
        services = Services(settings, catalog, engine, history, DeviceLease(), None, views)
        assert services.multiview is not None
        yield Studio(
            services=services, views=services.multiview, scratch=tmp_path_factory.mktemp("scratch"),
            map=services.annotate(services.keep(photo(SIDE, SIDE)), "none"), picture=services.keep(photo(80, 80)),
            even=services.keep(Image.new("RGB", (SIDE, SIDE), "grey")),
            black=services.keep(Image.new("RGB", (SIDE, SIDE))), thing=services.multiview.keep(thing()),
        )  # fmt: skip


@pytest.fixture(scope="module")
def as_before(studio_of_bad: Studio) -> tuple[bytes, bytes]:
    """What good requests draw before anything bad was tried."""
    return studio_of_bad.good(), studio_of_bad.draw_views()


def thing() -> Image.Image:
    """One object on white."""
    image = Image.new("RGB", (96, 80), "white")
    ImageDraw.Draw(image).rectangle((30, 15, 60, 65), fill=(30, 90, 200))
    return image


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def float_tiff() -> bytes:
    levels = np.full((32, 32), np.nan, dtype=np.float32)
    return saved(Image.fromarray(levels), "TIFF")


FILES: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "a.png", "expected a picture, got 'an empty file'"),
    "text named png": (b"this is a letter\n" * 40, "a.png", "expected a PNG, JPEG or WEBP picture, got something else"),
    "cut png": (cut(saved(photo(), "PNG")), "a.png", "damaged or cut off; save it anew"),
    "cut jpeg": (cut(saved(photo(300, 300), "JPEG")), "a.jpg", "damaged or cut off; save it anew"),
    "cut webp": (cut(saved(photo(300, 300), "WEBP")), "a.webp", "expected a PNG, JPEG or WEBP|damaged or cut off"),
    "tall sliver": (saved(photo(1, 5000), "PNG"), "a.png", "sides of 16 pixels or more, got '1 x 5000'"),
    "wide sliver": (saved(photo(5000, 1), "PNG"), "a.png", "sides of 16 pixels or more, got '5000 x 1'"),
    "ribbon": (saved(photo(2000, 20), "PNG"), "a.png", "differ at most 8 times: cut it first, got '2000 x 20'"),
    "animated gif": (animation("GIF"), "a.gif", "expected a PNG, JPEG or WEBP picture, got something else"),
    "animated webp": (animation("WEBP"), "a.webp", "stands still: save one of its frames, got 'an animation'"),
    "animated png": (animation("PNG"), "a.png", "stands still: save one of its frames, got 'an animation'"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9'/>", "a.svg", "expected a PNG, JPEG or WEBP"),
    "giant header": (png_header(60_000, 60_000), "a.png", "expected a PNG|at most 36000000 pixels"),
    "float tiff": (float_tiff(), "a.tiff", "expected a PNG, JPEG or WEBP picture, got something else"),
    "pickle": (b"\x80\x04\x95\x00\x00\x00", "a.png", "expected a PNG, JPEG or WEBP picture, got something else"),
}

Act = Callable[[Studio], object]
UNITS: dict[str, tuple[Act, str]] = {
    "all black map": (lambda s: s.draw(controls=(s.unit(image=s.black),)), "a map that shows something.*one even col"),
    "map of an even picture": (lambda s: s.services.annotate(s.even, "canny"), "a map that shows something"),
    "another family": (lambda s: s.draw(controls=(s.unit(control="canny-xl"),)), "fits tiny: canny, got 'canny-xl'"),
    "adapter as control": (lambda s: s.draw(controls=(s.unit(control="ip"),)), "fits tiny: canny, got 'ip'"),
    "control as adapter": (
        lambda s: s.draw(references=(Reference(adapter="canny", image=s.map),)), "fits tiny: ip, got 'canny'"
    ),
    "no such map": (lambda s: s.draw(controls=(s.unit(image="0" * 64),)), "is not kept in this studio"),
    "a path for an id": (lambda s: s.unit(image="../../etc/passwd"), "control_image: expected .*64 digits.*etc/passwd"),
    "a path for a picture": (lambda s: s.services.picture("../../etc/passwd"), "64 hexadecimal digits"),
    "a path for a model": (lambda s: s.draw(model="../../etc/passwd"), "model: expected one of .*etc/passwd"),
    "weight nan": (lambda s: s.unit(weight=float("nan")), "control_weight: expected a number from 0 to 2, got nan"),
    "weight -1": (lambda s: s.unit(weight=-1), "control_weight: expected a number from 0 to 2, got -1"),
    "weight 3": (lambda s: s.unit(weight=3), "control_weight: expected a number from 0 to 2, got 3"),
    "weight huge": (lambda s: s.unit(weight=10**400), "control_weight: expected a number from 0 to 2, got 1000"),
    "weight in words": (lambda s: s.unit(weight="strong"), "control_weight: expected a number.*got 'strong'"),
    "start after end": (lambda s: s.unit(start=0.8, end=0.2), "control_end: expected more than the start 0.8, got 0.2"),
    "four units": (lambda s: s.draw(controls=(s.unit(),) * 4), "controls: expected at most 3, got '4'"),
    "three references": (
        lambda s: s.draw(references=(Reference(adapter="ip", image=s.map),) * 3), "references: expected at most 2"
    ),
    "scale 9": (lambda s: Reference(adapter="ip", image=s.map, scale=9), "reference_scale: expected a number.*1.5"),
    "a black reference mask": (
        lambda s: s.draw(references=(Reference(adapter="ip", image=s.map, mask=s.black),)),
        "reference_mask: expected white where the reference is to act",
    ),
    "unknown resize": (lambda s: s.unit(resize="melt"), "control_resize: expected one of crop, stretch, pad"),
    "units that are a number": (
        lambda _: conditions.tuple_from_json(ControlUnit, "controls", 7), "controls: expected a list"
    ),
    "a unit with a path": (
        lambda _: conditions.tuple_from_json(ControlUnit, "controls", [{"control": "canny", "path": "/etc/passwd"}]),
        "controls: expected an object with keys from control, image",
    ),
    "a unit without a map": (
        lambda _: conditions.tuple_from_json(ControlUnit, "controls", [{"control": "canny"}]),
        "controls: expected an object with at least its id and its image",
    ),
}  # fmt: skip
PICTURES: dict[str, tuple[Act, str]] = {
    "mask of another size": (
        lambda s: s.services.keep_mask(Image.new("L", (80, 40), 255), s.picture),
        "mask: expected a mask of its picture's proportions, 80 x 80, got '80 x 40'",
    ),
    "kept mask of another size": (
        lambda s: s.draw(initial=InitialImage(image=s.picture, strength=1.0, mask=s.services.keep(photo(80, 40)))),
        "mask: expected a mask of its picture's proportions",
    ),
    "mask all black": (
        lambda s: s.services.keep_mask(Image.new("L", (80, 80)), s.picture), "expected white where .*without any white"
    ),
    "mask all white, strength too low": (
        lambda s: s.draw(steps=4, initial=InitialImage(
            image=s.picture, strength=0.1, mask=s.services.keep_mask(Image.new("L", (80, 80), 255), s.picture)
        )),
        r"strength: expected at least 0\.25 with 4 steps, or at least 10 steps with 0\.1",
    ),
    "under one step": (
        lambda s: s.draw(steps=2, initial=InitialImage(image=s.picture, strength=0.4)), "strength: expected at least 0"
    ),
    "strength nan": (lambda s: InitialImage(image=s.picture, strength=float("nan")), "strength: expected a number"),
    "canny levels swapped": (lambda _: CannyLevels(low=300, high=100), "canny_low: expected at most the high level"),
    "unknown annotator": (lambda s: s.services.annotate(s.map, "telepathy"), "annotator: expected one of none, canny"),
    "annotator that is a list": (
        lambda s: s.services.annotate(s.map, ["canny"]), "annotator: expected one of"  # type: ignore[arg-type]
    ),
    "a map of a billion pixels": (
        lambda s: s.services.annotate(s.map, "canny", size=(10**9, 64)), "width: expected a whole number from 64"
    ),
    "a size of 100": (lambda s: s.draw(width=100), "width: expected a multiple of 8, got 100"),
    "a map of 100": (lambda s: s.services.annotate(s.map, "canny", size=(64, 100)), "height: expected a multiple of 8"),
    "guidance for three windows": (lambda s: s.draw(guidance=[3, 2, 1]), "guidance: expected .*4"),
    "guidance nan": (lambda s: s.draw(guidance=float("nan")), "guidance: expected numbers from 0 to 30, got nan"),
    "a float picture": (lambda s: s.services.keep(Image.new("F", (64, 64)), "image"), "got '32-bit levels'"),
}  # fmt: skip
VIEWS: dict[str, tuple[Act, str]] = {
    "views of nothing": (lambda s: s.draw_views(views_of=None), "image: expected a picture of one object"),
    "views of an empty picture": (lambda s: s.views.prepare(s.even), "one object that stands out.*no object found"),
    "views of all object": (
        lambda s: s.views.prepare(s.picture, background="alpha"), "some background around it.*100% of the picture"
    ),
    "views of a text": (lambda s: s.views.keep(s.file(b"text", "a.png")), "expected a PNG, JPEG or WEBP picture"),
    "views of a sliver": (lambda s: s.views.keep(photo(5000, 1)), "sides of 16 pixels or more"),
    "views of what is gone": (lambda s: s.draw_views(views_of=ViewsOf(image="0" * 64)), "is not kept in this studio"),
    "views by a plain model": (lambda s: s.draw_views(model="tiny"), "a multiview network that is here: tiny-views"),
    "views by a list": (lambda s: s.draw_views(model=["tiny-views"]), "a multiview network that is here"),
    "views by a LoRA": (lambda s: s.draw_views(accelerator="lcm"), "accelerator: expected one that fits tiny-views"),
    "guidance of views": (lambda s: s.draw_views(guidance=[1, 2]), "guidance: expected .*4"),
    "no such background": (lambda s: s.views.prepare(s.thing, background="magic"), "background: expected one of auto"),
    "a mesh of no sheet": (
        lambda s: s.views.mesh(s.services.history.search(limit=1)[0].id) if s.good() else None, "6 x 2 square views"
    ),
}  # fmt: skip
ACTS = {**UNITS, **PICTURES, **VIEWS}


def test_there_are_thirty_and_more() -> None:
    assert len(FILES) + len(ACTS) >= 60


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_ends_in_a_sentence_and_the_next_request_draws_as_before(
    studio_of_bad: Studio, as_before: tuple[bytes, bytes], name: str
) -> None:
    content, file_name, words = FILES[name]
    path = studio_of_bad.file(content, file_name)
    for take in (studio_of_bad.services.keep, studio_of_bad.views.keep):
        with pytest.raises(StudioError, match=words) as refused:
            take(path)
        _is_a_sentence(str(refused.value), studio_of_bad)
    assert studio_of_bad.good() == as_before[0]


@pytest.mark.parametrize("name", ACTS)
def test_a_bad_request_ends_in_a_sentence_and_the_next_one_draws_as_before(
    studio_of_bad: Studio, as_before: tuple[bytes, bytes], name: str
) -> None:
    act, words = ACTS[name]
    with pytest.raises(StudioError, match=words) as refused:
        act(studio_of_bad)
    _is_a_sentence(str(refused.value), studio_of_bad)
    if name in VIEWS:
        assert studio_of_bad.draw_views() == as_before[1]
    else:
        assert studio_of_bad.good() == as_before[0]


def _is_a_sentence(text: str, studio: Studio) -> None:
    """Short, ended, and without a word of where things lie or how they broke."""
    assert text.endswith(".")
    assert len(text) < 400
    assert str(studio.scratch) not in text
    assert str(studio.services.settings.data_dir) not in text
    assert "Traceback" not in text


# --- odd to a program, ordinary to a person ---------------------------------------------------------------------------


def sixteen_bit_png() -> bytes:
    """`photo` as 16-bit RGB: each level times 257."""
    levels = np.asarray(photo()).astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    return png([(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows))])


def grey_ramp() -> np.ndarray:
    return np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21


def palette_with_transparency() -> bytes:
    """Four colours, of which the first is clear."""
    indices = np.arange(64 * 48, dtype=np.uint8).reshape(48, 64) % 4
    image = Image.fromarray(indices, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    return saved(image, "PNG", transparency=0)


def held_sideways() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(photo(), "PNG", exif=exif)


def broken_exif() -> bytes:
    return saved(photo(), "PNG", exif=b"Exif\0\0MM\0\x8b\0\0\0\x08")


def camera_with_preview() -> bytes:
    """An MPO: a camera's JPEG with a second, smaller picture behind the first."""
    file = io.BytesIO()
    red, preview = Image.new("RGB", (200, 100), (200, 40, 40)), photo(100, 50)
    red.save(file, format="MPO", save_all=True, append_images=[preview], quality=95)
    return file.getvalue()


def palette_colours() -> np.ndarray:
    colours = np.array([[255, 255, 255], [0, 255, 0], [0, 0, 255], [9, 9, 9]])
    return colours[np.arange(64 * 48).reshape(48, 64) % 4]


ORDINARY: dict[str, tuple[Callable[[], bytes], Callable[[], np.ndarray], int]] = {
    "16-bit colour": (sixteen_bit_png, lambda: np.asarray(photo()), 0),
    "16-bit grey": (
        lambda: saved(Image.fromarray(grey_ramp()), "PNG"),
        lambda: (grey_ramp() / 257).round().astype(int)[..., None].repeat(3, -1), 0,
    ),
    "CMYK": (
        lambda: saved(Image.new("CMYK", (64, 48), (0, 255, 255, 0)), "JPEG", quality=95),
        lambda: np.broadcast_to([255, 0, 0], (48, 64, 3)), 6,
    ),
    "palette with transparency": (palette_with_transparency, palette_colours, 0),
    "grey with alpha": (
        lambda: saved(Image.merge("LA", [Image.new("L", (64, 48), 40), Image.new("L", (64, 48), 0)]), "PNG"),
        lambda: np.full((48, 64, 3), 255), 0,
    ),
    "held sideways": (held_sideways, lambda: np.asarray(photo().rotate(-90, expand=True)), 0),
    "broken EXIF": (broken_exif, lambda: np.asarray(photo()), 0),
    "a camera's picture with its preview": (
        camera_with_preview, lambda: np.broadcast_to([200, 40, 40], (100, 200, 3)), 4
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_picture_of_an_odd_kind_comes_out_right(studio_of_bad: Studio, name: str) -> None:
    content, wanted, tolerance = ORDINARY[name]
    kept = studio_of_bad.services.keep(studio_of_bad.file(content()))
    got = np.asarray(studio_of_bad.services.picture(kept)).astype(int)
    assert got.shape == wanted().shape
    assert np.abs(got - wanted()).max() <= tolerance


def test_an_object_keeps_its_transparency_and_its_clear_colour(studio_of_bad: Studio) -> None:
    clear = thing().convert("RGBA")
    clear.putalpha(Image.eval(thing().convert("L"), lambda level: 255 if level < 250 else 0))
    kept = studio_of_bad.views.keep(studio_of_bad.file(saved(clear, "PNG")))
    assert studio_of_bad.services.picture(kept).mode == "RGBA"
    assert studio_of_bad.views.prepare(kept).way == "alpha"


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    program = ("-m", "tests.multiview.studio_with_views", str(folder))
    data = tmp_path_factory.mktemp("served") / "data"
    with StudioProcess(data, program=program) as process:
        client = Client(process.url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))
        yield client
        client.close()
        assert "Traceback" not in process.log


Call = Callable[[Client, dict[str, str]], object]
OVER_HTTP: dict[str, tuple[Call, str]] = {
    **{
        name: (
            lambda client, ids, name=name: client.predict(handle_file(ids[name]), api_name="/annotate"), FILES[name][2]
        )
        for name in ("empty", "text named png", "cut png", "tall sliver", "animated webp", "giant header", "svg")
    },
    "no file": (lambda client, _: client.predict(None, api_name="/annotate"), "image: expected a picture"),
    "a file of the machine": (
        lambda client, _: client.predict({"path": "/etc/passwd"}, api_name="/annotate"), "uploaded to this studio|path"
    ),
    "one side alone": (
        lambda client, ids: client.predict(handle_file(ids["good"]), width=64, api_name="/annotate"), "both sides"
    ),
    "canny levels swapped": (
        lambda client, ids: client.predict(
            handle_file(ids["good"]), annotator="canny", canny_low=300, canny_high=100, api_name="/annotate"
        ),
        "canny_low: expected at most the high level",
    ),
    "a path for a map": (
        lambda client, _: client.predict(
            "x", controls=[{"control": "canny", "image": "../../etc/passwd"}], api_name="/control"
        ),
        "control_image: expected a picture kept by this studio",
    ),
    "four units": (
        lambda client, ids: client.predict(
            "x", controls=[{"control": "canny", "image": ids["map"]}] * 4, api_name="/control"
        ),
        "controls: expected at most 3",
    ),
    "an adapter for a control": (
        lambda client, ids: client.predict(
            "x", controls=[{"control": "ip", "image": ids["map"]}], api_name="/control"
        ),
        "control: expected one that fits tiny: canny, got 'ip'",
    ),
    "under one step": (
        lambda client, ids: client.predict(
            "x", handle_file(ids["good"]), strength=0.1, steps=4, api_name="/image_to_image"
        ),
        "at least 10 steps with 0.1",
    ),
    "mask of another size": (
        lambda client, ids: client.predict(
            "x", handle_file(ids["good"]), mask=handle_file(ids["ribbon"]), api_name="/image_to_image"
        ),
        "differ at most 8 times",
    ),
    "no object": (
        lambda client, ids: client.predict(handle_file(ids["even"]), api_name="/multiview"), "no object found"
    ),
    "a LoRA on views": (
        lambda client, ids: client.predict(handle_file(ids["thing"]), accelerator="lcm", api_name="/multiview"),
        "accelerator: expected one that fits tiny-views",
    ),
}  # fmt: skip


def over_http(client: Client, ids: dict[str, str]) -> tuple[bytes, bytes]:
    """A good drawing and good views: their pixels."""
    unit = {"control": "canny", "image": ids["map"]}
    drawn, _ = client.predict("a red cube", controls=[unit], steps=1, guidance=1.0, seed=3, api_name="/control")
    sheet, told = client.predict(handle_file(ids["thing"]), steps=1, seed=3, mesh=False, api_name="/multiview")
    told = told if isinstance(told, dict) else json.loads(told)
    assert told["parameters"]["views_of"]["background"] == "auto"
    with Image.open(drawn[0]) as image, Image.open(sheet[0]) as views:
        return image.tobytes(), views.tobytes()


@pytest.mark.slow
def test_over_http_the_same_sentences_come_and_the_next_request_works(client: Client, studio_of_bad: Studio) -> None:
    """One client, one bad request after the other, a good one behind each."""
    files = {name: studio_of_bad.file(content, f"{place}-{file}") for place, (name, (content, file, _)) in
             enumerate(FILES.items())}  # fmt: skip
    files["good"] = studio_of_bad.file(saved(photo(SIDE, SIDE), "PNG"), "good.png")
    files["thing"] = studio_of_bad.file(saved(thing(), "PNG"), "thing.png")
    files["even"] = studio_of_bad.file(saved(Image.new("RGB", (64, 64), "grey"), "PNG"), "even.png")
    ids = {name: str(path) for name, path in files.items()}
    made = client.predict(handle_file(ids["good"]), api_name="/annotate")
    ids["map"] = made["id"]
    assert made["id"] == studio_of_bad.map
    wanted = over_http(client, ids)
    for name, (call, words) in OVER_HTTP.items():
        with pytest.raises(Exception, match=words) as refused:
            call(client, ids)
        assert len(str(refused.value)) < 500, name
        assert over_http(client, ids) == wanted, name
