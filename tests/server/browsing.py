"""A real browser for tests of the web page: headless Chromium, driven through chromedriver."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

PROGRAMS = ("chromium", "chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
PATIENCE = 20


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile; skips without one, unless GPTOSS_MLX_REQUIRE_BROWSER=1 says it must be there."""
    paths = [shutil.which(program) for program in PROGRAMS]
    if None in paths:
        reason = f"{' and '.join(PROGRAMS)} are not both installed"
        if os.environ.get("GPTOSS_MLX_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    options = ChromeOptions()
    options.binary_location = str(paths[0])
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = Chrome(options=options, service=Service(paths[1]))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    """What tests do on the page.

    Args:
        driver: of a browser in which nothing else is open.
    """

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        driver.set_script_timeout(PATIENCE)

    def open(self, url: str, width: int = 1200, scheme: str = "light") -> None:
        """Open the page. Every server of a test has a port of its own, so nothing is kept from earlier ones."""
        self.resize(width)
        self.prefer(scheme)
        self.driver.get(url)
        self.ready()

    def ready(self) -> None:
        """Wait until the page has heard of the server's models, or says why not."""
        self.until(lambda: self.all("#model option") or self.shown("#notice"))

    def resize(self, width: int, height: int = 800) -> None:
        """Give the page that many CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, scheme: str) -> None:
        """Say that the system is light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def ask(self, question: str) -> None:
        """Write a question and send it with the keyboard."""
        self.one("#question").send_keys(question + "\n")

    def answer(self, question: str) -> str:
        """Ask, wait for the end of the answer, and return what the last turn shows."""
        self.ask(question)
        return self.ended()

    def ended(self) -> str:
        """Wait until the last answer is over; returns what its turn shows."""
        self.until(lambda: self.all("article:last-child[aria-busy=false]"))
        return self.one("article:last-child").text

    def one(self, selector: str) -> WebElement:
        """The first element of a CSS selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """All of them."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def shown(self, selector: str) -> bool:
        """Whether the first one can be seen."""
        return self.one(selector).is_displayed()

    def click(self, text: str) -> None:
        """Press the last button with that text."""
        [*_, button] = [each for each in self.all("button") if each.is_displayed() and each.text == text]
        button.click()

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, holds: Callable[[], Any]) -> None:
        """Wait until something holds."""
        WebDriverWait(self.driver, PATIENCE, poll_frequency=0.02).until(lambda _: holds())

    def complaints(self) -> list[str]:
        """What the console has since the last time: errors, and what the policy refused."""
        entries: list[dict[str, Any]] = self.driver.execute("getLog", {"type": "browser"})["value"]
        return [str(entry["message"]) for entry in entries]
