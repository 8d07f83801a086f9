"""Pages in a browser: opened, sorted, filtered, zoomed, by mouse and by keyboard, wide and narrow, light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from page_models import NAMED, resnet50, small, values_of
from torch import nn

import torchvision_customizer as tvc

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("there is no Chromium on this machine", allow_module_level=True)

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
# Two frames after the script: it is on the screen.
DRAWN = "() => new Promise((ready) => requestAnimationFrame(() => requestAnimationFrame(() => ready(performance.now() / 1e3))))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


Open = Callable[..., Any]


@pytest.fixture
def show(browser: Any) -> Iterator[Open]:
    """Opens a file, and at the end says whether there was anything in the console, or anything else was asked for."""
    said: list[str] = []
    contexts = []

    def open_page(file: Path, width: int = 1280, scheme: str = "light", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url not in (file.as_uri(), "data:,") else None)
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not said


# Of a cell without its sign and the line below.
PATHS = """cells => cells.map((cell) =>
  [...cell.querySelectorAll(':scope > :not(.sign, small)')].map((part) => part.textContent).join(''))"""
OVERLAPS = """() => {
  const found = [];
  for (const group of document.querySelectorAll('#drawing g[role="group"]')) {
    const rects = [...group.querySelectorAll(':scope > g > :is(.module, .op) > rect')];
    const boxes = rects.map((rect) => rect.getBoundingClientRect());
    boxes.forEach((a, i) => boxes.slice(0, i).forEach((b) => {
      if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) found.push([a, b]);
    }));
  }
  return found;
}"""


def paths(page: Any) -> list[str]:
    return page.locator("tbody th").evaluate_all(PATHS)


def sums(page: Any) -> list[int]:
    return [int(page.locator(f"tfoot .{key}").get_attribute("data-value")) for key in ("parameters", "flops")]


def boxes(page: Any) -> list[str]:
    return page.locator("#drawing .module").evaluate_all("items => items.map((item) => item.dataset.path)")


def current(page: Any) -> str:
    return page.evaluate("document.activeElement.dataset.path")


def check(show: Open, model: nn.Module, file: Path) -> Any:
    """What holds of every page of one model; returns one that is open."""
    for width in WIDTHS:
        for scheme in SCHEMES:
            page = show(file, width, scheme)
            root = page.locator("html")
            assert root.evaluate("root => root.scrollWidth") == width
            # Nothing that can be clicked is beside the screen, but for the parts, which scroll by themselves.
            tools = page.locator(".tools :is(button, input):visible")
            rights = tools.evaluate_all("all => all.map((one) => one.getBoundingClientRect().right)")
            assert rights and max(rights) <= width
            ground = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
            brightness = sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) / 3
            assert (brightness > 128) == (scheme == "light")
    page = show(file)
    (found,) = values_of(file)["models"]
    parameters = sum(p.numel() for p in model.parameters())
    # The sum below the table is the model's, of all modules and of those that have no others in them.
    assert sums(page) == [parameters, found["flops"]]
    page.get_by_label("leaves").check()
    direct = sum(p.numel() for m in model.modules() if not m._modules for p in m.parameters(recurse=False))
    assert sums(page)[0] == direct
    page.get_by_label("leaves").uncheck()
    return page


def test_a_small_model(show: Open, tmp_path: Path) -> None:
    model = small()
    file = tvc.model_page(model, tmp_path / "page.html")
    page = check(show, model, file)
    all_paths = ["model", *(path for path, _ in model.named_modules() if path)]
    assert paths(page) == all_paths

    # The table: sorted by its headings, there and back; filtered by words and by the sign.
    heading = page.get_by_role("columnheader", name="Parameters")
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    counts = [sum(p.numel() for p in model.get_submodule(p.removeprefix("model")).parameters()) for p in paths(page)]
    assert counts == sorted(counts, reverse=True)
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending" and paths(page)[-1] == "model"
    heading.get_by_role("button").press("Enter")
    assert paths(page) == all_paths
    page.keyboard.press("/")
    page.keyboard.type("conv2d layer4")
    convolutions = [path for path, m in model.named_modules() if isinstance(m, nn.Conv2d) and path.startswith("layer4")]
    assert paths(page) == convolutions
    assert sums(page)[0] == sum(p.numel() for path in convolutions for p in model.get_submodule(path).parameters())
    page.get_by_label("Filter").fill("se")
    page.get_by_label("patched").check()
    blocks = [edit.child_path for edit in model.report.edits]
    assert [path for path in paths(page) if path.endswith(".se")] == blocks
    # What is in a block that is listed counts once.
    assert sums(page)[0] == sum(edit.parameters for edit in model.report.edits)
    page.get_by_label("patched").uncheck()
    page.get_by_label("Filter").fill("")

    # The graph: marks, opening, zoom.
    page.get_by_role("button", name="Close all").click()
    assert boxes(page) == ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"]
    assert "+ se ×2" in page.locator('#drawing [data-path="layer3"]').text_content()
    page.get_by_role("button", name="Show patches").click()
    assert [path for path in boxes(page) if path.endswith(".se")] == blocks
    assert page.locator("#drawing .module.new").count() == len(blocks) + 1
    page.get_by_role("button", name="Close all").click()
    page.locator('#drawing [data-path="layer4"] > rect').click()
    assert "layer4.1" in boxes(page) and "layer4" in page.locator("#details").text_content()
    width = page.locator("#drawing").bounding_box()["width"]
    page.get_by_role("button", name="Larger").click()
    assert page.locator("#drawing").bounding_box()["width"] == pytest.approx(1.25 * width, rel=0.01)
    page.locator("#frame").hover()
    page.keyboard.down("Control")
    page.mouse.wheel(0, 100)
    page.keyboard.up("Control")
    page.wait_for_function("width => document.getElementById('drawing').getBoundingClientRect().width < 1.2 * width", arg=width)
    page.get_by_role("button", name="Fit").click()

    # By keyboard: a row of the table to its place in the graph, and on from there.
    row = page.locator("tbody tr", has=page.locator("th", has_text="layer3.1.se")).first
    row.focus()
    page.keyboard.press("Enter")
    assert page.locator("#drawing .selected").get_attribute("data-path") == "layer3.1.se"
    assert page.locator("#details").text_content().count("se(channels=256") == 1
    page.locator("#drawing .selected").focus()
    for key, expected in (
        ("ArrowUp", "layer3.1.bn2"),
        ("ArrowLeft", "layer3.1"),
        ("ArrowLeft", "layer3.1"),  # closes it
        ("ArrowDown", "layer4"),
        ("Home", "conv1"),
        ("End", "fc"),
    ):
        page.keyboard.press(key)
        assert current(page) == expected
    assert "layer3.1.se" not in boxes(page)
    assert page.locator("tbody tr.selected th .name").text_content() == "fc"

    # The recipe, and at a phone's width the same with fingers.
    page.get_by_text("Recipe", exact=True).click()
    assert "backbone:\n  name: resnet18" in page.locator("#recipe-text").text_content()
    phone = show(file, 390, has_touch=True, is_mobile=True)
    phone.get_by_role("button", name="Close all").tap()
    phone.locator('#drawing [data-path="layer4"] > rect').tap()
    assert "layer4.0" in boxes(phone)
    assert phone.locator("html").evaluate("root => root.scrollWidth") == 390


def test_names_are_text(show: Open, tmp_path: Path) -> None:
    name = "</script><script>window[1]=1</script>"
    model = nn.Sequential(nn.Sequential())
    model[0].add_module(name, nn.Linear(4, 4))
    model.__class__ = type("<img src=x onerror='window[1]=1'>", (nn.Sequential,), {})
    page = show(tvc.model_page(model, tmp_path / "x.html", input_shape=(4,)))
    page.locator("tbody tr").last.click()
    assert page.locator("#drawing .selected .name").text_content() == name
    assert paths(page)[-1] == f"0.{name}" and name in page.locator("#details").text_content()
    assert page.evaluate("window[1]") is None and page.locator("img").count() == 0


def test_differences(show: Open, tmp_path: Path) -> None:
    a = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    b = nn.Sequential(nn.Linear(4, 4), nn.GELU())
    b[0].load_state_dict(a[0].state_dict())
    page = show(tvc.diff_page(a, b, tmp_path / "x.html", input_shape=(4,), names=("one", "other")))
    assert page.locator("h1").text_content() == "one → other"
    assert paths(page) == ["1", "2", "2.weight", "2.bias"]
    page.locator("tbody tr", has_text="Linear").first.click()  # which only the first has
    assert page.get_by_role("button", name="A: one").get_attribute("aria-pressed") == "true"
    assert page.locator("#drawing .module.gone").get_attribute("data-path") == "2"
    page.get_by_role("button", name="B: other").click()
    page.get_by_role("button", name="Modules").click()
    assert paths(page) == ["model", "0", "1"]
    page.get_by_label("differs").check()
    assert paths(page) == ["1"]


@pytest.mark.full
@pytest.mark.parametrize("name", NAMED)
def test_other_models(show: Open, tmp_path: Path, name: str) -> None:
    model = NAMED[name]()
    file = tvc.model_page(model, tmp_path / "page.html")
    page = check(show, model, file)
    levels = max(path.count(".") for path, _ in model.named_modules()) + 1
    for _ in range(levels):
        page.get_by_role("button", name="Open a level").click()
    # Every module that runs has a box, and no two boxes beside each other overlap.
    shown = set(boxes(page))
    lists = {path for path, module in model.named_modules() if isinstance(module, nn.ModuleList | nn.ModuleDict)}
    assert {path for path, _ in model.named_modules() if path} - lists == shown
    assert page.evaluate(OVERLAPS) == []


@pytest.mark.alone
def test_opens_in_a_second(show: Open, tmp_path: Path) -> None:
    file = tvc.model_page(resnet50(), tmp_path / "page.html")
    assert min(show(file).evaluate(DRAWN) for _ in range(3)) < 1.0
