"""What the page looks like, against images kept in `golden/`: light, dark, and a phone.

`XENT_GOLDEN=write pytest tests/_explain/test_look.py` takes them anew; look at them before you keep them.
"""

import io
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xent._explain.walk import explain

from .browser import chromium, opened  # noqa: F401
from .test_explain import FIRST, FIRST_TARGET
from .test_page import wide

GOLDEN = Path(__file__).parent / "golden"
CELL = 16
"""Pixels of a cell's side. Its mean colour is compared: the edges of letters, which each version of a browser smooths
in its own way, are lost in it (11 of 255 at most), and a bar, a line of text or a colour is not (from 38 on)."""
TOLERANCE = 24
"""Of 255, in any cell."""
FONTS = '*{font-family:"DejaVu Sans"!important}code{font-family:"DejaVu Sans Mono"!important}'
LOOKS = {
    "light": (lambda: explain(FIRST, FIRST_TARGET, labels=["cat", "dog", "llama"]), "light", (980, 900)),
    "dark": (lambda: explain(FIRST, FIRST_TARGET, label_smoothing=0.1, z_loss=0.01), "dark", (980, 900)),
    "phone": (lambda: explain(*wide()), "light", (380, 800)),
}


@contextmanager
def looked_at(chromium, tmp_path, name):  # noqa: F811
    """A function that takes a picture, with more style if it is asked."""
    make, scheme, size = LOOKS[name]
    with opened(chromium, make().to_html(), tmp_path / "loss.html", scheme, size) as page:
        if not page.measure("font('DejaVu Sans')") or not page.measure("font('DejaVu Sans Mono')"):
            pytest.skip("no DejaVu fonts here (Debian: apt-get install fonts-dejavu-core)")
        page.page.add_style_tag(content=FONTS)

        def picture(style="/* none */"):
            more = page.page.add_style_tag(content=style)
            image = Image.open(io.BytesIO(page.page.screenshot(full_page=True))).convert("RGB")
            more.evaluate("it => it.remove()")
            return image

        yield picture


def cells(image):
    """Mean colours."""
    high, wide = (size // CELL * CELL for size in (image.height, image.width))
    pixels = np.asarray(image.convert("RGB"), dtype=float)[:high, :wide]
    return pixels.reshape(high // CELL, CELL, wide // CELL, CELL, 3).mean((1, 3))


def difference(image, golden):
    """The largest of a cell and a colour; all there is where the sizes differ."""
    return np.abs(cells(image) - cells(golden)).max() if image.size == golden.size else 255.0


@pytest.mark.parametrize("name", LOOKS)
def test_golden(chromium, tmp_path, name):  # noqa: F811
    path = GOLDEN / f"page_{name}.png"
    with looked_at(chromium, tmp_path, name) as picture:
        image = picture()
    if os.environ.get("XENT_GOLDEN") == "write":
        image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    assert difference(image, Image.open(path)) <= TOLERANCE


CHANGES = (
    ".bar i{visibility:hidden}",
    "#curve circle{display:none}",
    "tr.target>*{background:none!important}#classes .target th{font-weight:400}body{--target:#fff}",
    ":root{--accent:#7a2ad7!important}",
    "h2{margin-top:34px!important}",
    "th{text-align:right!important}",
)


def test_the_tolerance_sees_a_change(chromium, tmp_path):  # noqa: F811
    golden = Image.open(GOLDEN / "page_light.png")
    with looked_at(chromium, tmp_path, "light") as picture:
        for style in CHANGES:
            assert difference(picture(style), golden) > TOLERANCE, style
        assert difference(picture(), golden) <= TOLERANCE
