"""The site, built as `make docs` does and opened in a browser: nothing is cut off, nothing is missing, and the search finds."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
WORDS = ("se", "drop_path", "state_dict")

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("site")]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="the site needs mkdocs-material")
    if folder := os.environ.get("TVC_SITE"):  # one that has been built
        return Path(folder)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("the browser test needs chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def pages(site: Path) -> list[str]:
    return sorted(str(path.relative_to(site)) for path in site.rglob("*.html") if path.name != "404.html")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_page(site: Path, address: str, browser: Any, width: int, scheme: str) -> None:
    """``TVC_SCREENSHOTS``: a folder for a picture of each."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: message.type in ("error", "warning") and wrong.append(f"{page.url}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"{page.url}: {error}"))
    page.on("requestfailed", lambda request: wrong.append(f"{request.url} failed"))
    page.on(
        "request",
        lambda request: request.url.startswith((address, "data:", "blob:")) or wrong.append(f"asks for {request.url}"),
    )
    assert len(pages(site)) >= 13
    for name in pages(site):
        page.goto(f"{address}/{name}", wait_until="load")
        page.add_style_tag(content="*, *::before, *::after { transition: none !important; animation: none !important; }")
        found = page.evaluate("document.documentElement.scrollWidth")
        if found > width:
            wrong.append(f"{name} is {found} wide: {page.evaluate(WIDEST)}")
        broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
        wrong.extend(f"{name}: no picture {source}" for source in broken)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        is_dark = sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(", ")[:3])) < 384
        assert is_dark == (scheme == "dark"), f"{name}: {background}"
        if folder := os.environ.get("TVC_SCREENSHOTS"):
            page.screenshot(
                path=Path(folder) / f"{Path(name).stem}-{width}-{scheme}.png", full_page=len(page.content()) < 300_000
            )
    context.close()
    assert not wrong, "\n".join(wrong)


# The elements that reach furthest to the right, for the message.
WIDEST = """
[...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
  .slice(0, 3).map(e => e.tagName + "." + e.className + ": " + e.textContent.slice(0, 60)).join("; ")
"""


@pytest.mark.parametrize("word", WORDS)
def test_search(address: str, browser: Any, word: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}/index.html?q={word}", wait_until="load")
    page.locator("input.md-search__input").fill(word)
    results = page.locator(".md-search-result__item")
    results.first.wait_for(timeout=20_000)
    links = [link.get_attribute("href") for link in results.locator("a").all()]
    text = " ".join(results.all_inner_texts()).lower()
    assert links and word in text
    if word != "state_dict":
        assert any(link.partition("?")[0].endswith("blocks.html") for link in links), links
    page.close()
