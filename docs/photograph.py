"""Photograph the first screen of a study's page, for the README.

    python docs/photograph.py results/quickstart/findings.html docs/findings_page.png

Needs Chromium and playwright, which `.ci/run` installs.
"""

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import opened  # noqa: E402

COLOURS = 64  # of the picture: text and a few marks


def main(page: str, picture: str) -> None:
    with opened(Path(page).resolve(), width=1100, height=820) as shown:
        image = Image.open(BytesIO(shown.screenshot()))
    image.convert("RGB").quantize(COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
