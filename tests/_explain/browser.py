"""A page of `explain` in headless Chromium, its numbers read back; whatever it complains of or asks for is kept."""

import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import xent

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MEASURE = (Path(__file__).parent / "measure.js").read_text(encoding="utf-8")


@dataclass
class Opened:
    """A page, and what came of opening it."""

    page: object
    url: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def settle(self):
        """Nothing was complained of, and nothing but the page itself was asked for."""
        assert self.complaints == []
        assert set(self.requests) - {"about:srcdoc"} == {self.url}

    def measure(self, what):
        """One of the functions of measure.js."""
        return self.page.evaluate(f"{MEASURE}.{what}")

    def numbers(self):
        """What the page shows, with every digit."""
        return self.measure("read()")

    def slider(self, index):
        """Of the class with that number."""
        return self.page.get_by_role("slider", name=f"logit of class {index}", exact=False).first


@pytest.fixture(scope="module")
def chromium():
    """The browser of the system: Debian's `chromium`."""
    if CHROMIUM is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium fonts-dejavu-core)")
    playwright = pytest.importorskip("playwright.sync_api", reason='no playwright here (pip install -e ".[dev]")')
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@contextmanager
def opened(chromium, html, path: Path, scheme="light", size=(980, 1000)):
    """The page in a context of its own. It may load itself and nothing else, and has nothing to complain of."""
    path.write_text(html, encoding="utf-8")
    viewport = {"width": size[0], "height": size[1]}
    context = chromium.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    context.set_default_timeout(120_000)  # of milliseconds: on a busy machine nothing is wrong yet
    page = context.new_page()
    found = Opened(page, path.as_uri())
    page.on("console", lambda message: found.complaints.append(message.text))
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("dialog", lambda dialog: found.complaints.append(dialog.message) or dialog.dismiss())
    context.on("request", lambda request: found.requests.append(request.url))
    page.goto(found.url)
    try:
        yield found
        found.settle()
    finally:
        context.close()


def truth(logits, target, temperature=1.0, **options):
    """Loss, probabilities and gradient of one row by xent, in float64."""
    x = logits.detach().double().reshape(1, -1).requires_grad_()
    scale, cap = options.pop("logit_scale", 1.0) / temperature, options.get("softcap")
    options = {name: value.double() if name == "weight" else value for name, value in options.items()}
    loss = xent.cross_entropy(x, target.reshape(1, *target.shape), reduction="sum", logit_scale=scale, **options)
    (gradient,) = torch.autograd.grad(loss, x)
    shaped = x.detach() * scale
    p = xent.softmax(shaped if cap is None else cap * torch.tanh(shaped / cap), dim=1)
    return loss.item(), p[0], gradient[0]
