"""Takes inspect.png, the picture of the inspect page: runs the demo and holds a Chromium to it.

    python docs/picture.py                                # some minutes: a whole demo
    python docs/picture.py --server http://127.0.0.1:8080 --user 273    # of one that runs: make demo KEEP=1

Needs playwright, and a Chromium on this machine (Debian: apt-get install chromium). `pngquant`, where it is there,
takes out colours that nobody sees: with it the file is a third as large.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).with_name("inspect.png")
WIDTH, HEIGHT, SCALE = 1060, 1010, 2  # of the window, in CSS pixels, and what a pixel of a good screen is
MOST_BYTES = 200_000


@contextmanager
def demo() -> Iterator[tuple[str, str]]:
    """The address and the user that a demo tells of."""
    words = [sys.executable, "-m", "forebay.cli", "demo", "--keep", "--port", "18080", "--kafka-port", "19392"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            print(line, end="")
            if found := re.search(r"In a browser: (http://\S+?)/\?side=user&id=(\d+)", line):
                yield found[1], found[2]
                return
        raise SystemExit("the demo ended before it was up")
    finally:
        process.terminate()
        process.wait(60)


def take(url: str, user: str) -> None:
    """The picture: the segments of the user, and the ranking, in light mode."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        window = {"width": WIDTH, "height": HEIGHT}
        page = browser.new_page(viewport=window, device_scale_factor=SCALE, color_scheme="light")  # type: ignore[arg-type]
        page.goto(f"{url}/?side=user&id={user}")
        page.screenshot(path=PICTURE)
        browser.close()
    if (pngquant := shutil.which("pngquant")) is not None:
        subprocess.run([pngquant, "--force", "--strip", "--output", PICTURE, "128", PICTURE], check=True)
    size = PICTURE.stat().st_size
    print(f"{PICTURE}: {size:,} bytes")
    if size > MOST_BYTES:
        raise SystemExit(f"more than {MOST_BYTES:,} bytes")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--server")
    words.add_argument("--user", default="273")
    given = words.parse_args()
    if given.server:
        take(given.server, given.user)
        return
    with demo() as (url, user):
        take(url, user)


if __name__ == "__main__":
    main()
