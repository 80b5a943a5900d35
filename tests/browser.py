"""A page in a real Chromium without a network, for tests: what it says, asks for, looks like."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def opened(path: Path, width: int = 1280, height: int = 900, scheme: str = "light"):
    """Open a file; yields the page, whose ``problems`` are errors and requests.

    Skips where there is no Chromium, or no playwright to drive it by.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip("Chromium is not installed")
    problems: list[str] = []
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        context = running.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
        )
        page = context.new_page()
        page.on("console", lambda said: problems.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("request", lambda asked: _note(problems, asked.url, path))
        page.goto(path.as_uri(), wait_until="load")
        page.problems = problems
        yield page
        running.close()


def _note(problems: list[str], url: str, path: Path) -> None:
    if url != path.as_uri() and not url.startswith("data:"):
        problems.append(f"request: {url}")


def violations(page) -> list[str]:
    """What axe finds against WCAG 2.1 A and AA, contrast among it."""
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe is not installed")
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    found = axe.Axe().run(page, options=options)
    return [
        f"{one['id']}: {node['html'][:120]}" for one in found["violations"] for node in one["nodes"]
    ]


def visible(page) -> str:
    """Text of what a reader sees before scrolling."""
    return page.evaluate(
        """() => {
          const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
          const seen = [];
          while (walker.nextNode()) {
            const range = document.createRange();
            range.selectNodeContents(walker.currentNode);
            const box = range.getBoundingClientRect();
            if (box.height && box.top >= 0 && box.bottom <= innerHeight && box.left >= 0)
              seen.push(walker.currentNode.textContent);
          }
          return seen.join(" ");
        }"""
    )
