"""The page as readers have it: in a real browser, on a phone and on a desk, in light and in dark, with keys alone."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_store import write_run

from melzarr.pipeline.builder.build_timings import Built
from melzarr.pipeline.inspection.quality import find
from melzarr.pipeline.report.page import PAGE, write_report
from melzarr.pipeline.zarr_store.reader import Store

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'melzarr[test]'")

AXE = Path(__file__).parents[3] / ".cache/node_modules/axe-core/axe.min.js"
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no chromium is here: apt-get install chromium", allow_module_level=True)

pytestmark = pytest.mark.slow

WIDTHS = (360, 768, 1280)
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def address(faulty: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with all that a page can have: every fault, hostile text, a run, how fast it was built."""
    folder = tmp_path_factory.mktemp("page")
    run = write_run(folder / "run", faulty)
    built = Built(faulty.attributes["uuid"], faulty.n_tracks, 3, 2, 12.0, {"decode": 3.0, "mel": 1.0, "write": 1.0})
    write_report(faulty, find(faulty), folder, run, built)
    return (folder / PAGE).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=[(width, scheme) for width in WIDTHS for scheme in SCHEMES], ids=lambda p: f"{p[0]}-{p[1]}")
def opened(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[tuple[Any, list[str], list[str]]]:
    """The page in one width and scheme, what the console said, and what was asked of the network."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda call: asked.append(call.url[:60]))
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true })")
    yield page, said, asked
    context.close()


def test_nothing_is_asked_of_the_network_and_nothing_complained_of(opened, address: str) -> None:
    page, said, asked = opened
    page.wait_for_load_state("networkidle")
    assert said == []
    assert [url for url in asked if not url.startswith("data:image/")] == [address[:60]]
    assert page.evaluate("[...document.images].every(it => it.complete && it.naturalWidth > 0)")


def test_the_page_is_no_wider_than_the_screen(opened) -> None:
    page, _, _ = opened
    wide = page.evaluate(
        """() => [...document.querySelectorAll('body *')].filter(it => !it.closest('.scroll, .skip')
            && it.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
            .map(it => it.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_colours_and_the_charts_are_those_of_the_scheme(opened) -> None:
    page, _, _ = opened
    is_dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    paper = page.evaluate("getComputedStyle(document.querySelector('section')).backgroundColor")
    assert paper == ("rgb(23, 27, 34)" if is_dark else "rgb(255, 255, 255)")
    corner = page.evaluate(
        """() => { const image = document.querySelector('img.chart'), canvas = document.createElement('canvas');
            const pen = canvas.getContext('2d'); pen.drawImage(image, 0, 0);
            return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3); }"""
    )
    assert f"rgb({corner[0]}, {corner[1]}, {corner[2]})" == paper


def test_keys_reach_the_content_and_everything_that_scrolls(opened) -> None:
    page, _, _ = opened
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
    scrolling = page.evaluate(
        """() => [...document.querySelectorAll('.scroll')].filter(it => it.scrollWidth > it.clientWidth)
            .map(it => it.getAttribute('aria-labelledby'))"""
    )
    reached, n_stops = set(), page.evaluate("document.querySelectorAll('a, summary, .scroll').length")
    for _ in range(n_stops - 1):  # the skip link was one of them
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "(it => [it.getAttribute('aria-labelledby'), getComputedStyle(it).outlineStyle])(document.activeElement)"
        )
        assert outline == "solid"
        reached.add(name)
    assert set(scrolling) <= reached
    if page.viewport_size["width"] == 360:
        assert len(scrolling) >= 3
        first = page.locator(f".scroll[aria-labelledby={scrolling[0]}]")
        first.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("it => it.scrollLeft > 0", arg=first.element_handle(), timeout=5000)


def test_headings_are_in_order_and_each_section_is_named(opened) -> None:
    page, _, _ = opened
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(it => Number(it.tagName[1]))")
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    linked = page.evaluate("[...document.querySelectorAll('nav a')].map(it => it.hash.slice(1))")
    named = page.evaluate("[...document.querySelectorAll('section')].map(it => it.getAttribute('aria-labelledby'))")
    assert linked == named
    assert page.evaluate("id => id.every(it => document.getElementById(it).tagName === 'H2')", named)


def test_axe_finds_no_violation(opened) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not in .cache: npm install --prefix .cache --no-save axe-core")
    page, _, _ = opened
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    assert [(rule["id"], [node["html"][:100] for node in rule["nodes"]]) for rule in found["violations"]] == []


def test_it_prints_without_what_is_only_for_a_screen(browser: Any, address: str) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(address)
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    assert page.locator("h1").is_visible()
    context.close()
