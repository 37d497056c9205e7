"""The web page in a real browser."""

import shutil
from typing import Any

import pytest

from tests.conftest import PATIENCE_S

PATIENCE_MS = PATIENCE_S * 1000

needs_browser = pytest.mark.skipif(not shutil.which("chromium"), reason="apt-get install chromium")


class Page:
    """One browser window; closing it fails if the page wrote errors to its console.

    `before` is JavaScript that runs before the page's.
    """

    def __init__(self, browser: Any, url: str, phone: bool = False, dark: bool = False, before: str = "") -> None:
        size = {"width": 390, "height": 844} if phone else {"width": 1400, "height": 900}
        self.context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light", is_mobile=phone)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.page.add_init_script(before)
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(url)

    def colour(self, canvas: str, x: float, y: float) -> list[int]:
        """Red, green, blue and opacity of a canvas at pixel (x, y) of the 512 x 384 frame."""
        script = """([id, x, y]) => {
            const canvas = document.getElementById(id);
            const at = [Math.floor((x + 0.5) * canvas.width / 512), Math.floor((y + 0.5) * canvas.height / 384), 1, 1];
            return canvas.width ? [...canvas.getContext("2d").getImageData(...at).data] : [0, 0, 0, 0];
        }"""
        return list(self.page.evaluate(script, [canvas, float(x), float(y)]))

    def shows(self, canvas: str, x: float, y: float, colour: tuple[int, int, int]) -> bool:
        red, green, blue, alpha = self.colour(canvas, x, y)
        return alpha > 200 and max(abs(a - b) for a, b in zip((red, green, blue), colour, strict=True)) < 12

    def imported(self, module: str, script: str, *given: Any) -> Any:
        """Call a JavaScript function with one of the page's modules and the given arguments, and return its result."""
        return self.page.evaluate(f"async (given) => ({script})(await import('/{module}'), ...given)", given)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def close(self) -> None:
        self.context.close()
        assert not self.said
