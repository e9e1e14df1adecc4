# SPDX-License-Identifier: Apache-2.0
"""A WebDriver client as small as these tests need (W3C WebDriver, over the standard library): one headless Chromium."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request

import weirtest


class Error(Exception):
    pass


class Browser:
    """with Browser(width, height, dark) as b: b.open(url); b.run("return ...")"""

    def __init__(self, width=1400, height=1000, dark=False):
        driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
        if not driver or not chromium:
            raise unittest.SkipTest("not installed: chromium, chromium-driver")
        self.dir = tempfile.mkdtemp(prefix="weir-browser-")
        port = weirtest.free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = open(os.path.join(self.dir, "driver.log"), "wb")
        self.driver = subprocess.Popen([driver, f"--port={port}"], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL,
                                       env={**os.environ, "HOME": self.dir}, start_new_session=True)
        self.session = None
        try:
            weirtest.wait_until(lambda: weirtest.can_connect(port), "chromedriver")
            arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars",
                         "--no-first-run", "--disable-quic", "--disable-background-networking", "--disable-component-update",
                         "--disable-sync", f"--user-data-dir={self.dir}/profile", f"--window-size={width},{height}",
                         "--proxy-server=direct://", "--force-color-profile=srgb"]
            if dark:
                arguments.append("--force-dark-mode")
            options = {"binary": chromium, "args": arguments}
            answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": {
                "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}})
            self.session = answer["sessionId"]
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.close()

    def close(self):
        if self.session is not None:
            try:
                self._call("DELETE", f"/session/{self.session}")
            except (Error, OSError):
                pass
            self.session = None
        self.driver.terminate()
        try:
            self.driver.wait(10)
        except subprocess.TimeoutExpired:
            self.driver.kill()
            self.driver.wait()
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def _call(self, method, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data=data, method=method, headers={"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as e:
            value = json.load(e)["value"]
            raise Error(f"{value.get('error')}: {value.get('message')}") from None

    def _do(self, method, path, body=None):
        return self._call(method, f"/session/{self.session}{path}", body)

    def open(self, url):
        self._do("POST", "/url", {"url": url})

    def run(self, script, *args):
        """Run a function body in the page and return what it returns."""
        return self._do("POST", "/execute/sync", {"script": script, "args": list(args)})

    def text(self, selector):
        return self.run("const e = document.querySelector(arguments[0]); return e ? e.innerText : null", selector)

    def keys(self, keys):
        """Press keys where the focus is."""
        actions = [a for k in keys for a in ({"type": "keyDown", "value": k}, {"type": "keyUp", "value": k})]
        self._do("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def console(self):
        """What the page complained of since the last call."""
        return [e["message"] for e in self._do("POST", "/se/log", {"type": "browser"}) if e["level"] in ("SEVERE", "WARNING")]

    def cdp(self, command, **params):
        return self._do("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def screenshot(self, path, whole=True):
        """A PNG of the page, all of its height when `whole`."""
        shot = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=whole,
                        **({"clip": {"x": 0, "y": 0, **self.size(), "scale": 1}} if whole else {}))
        with open(path, "wb") as f:
            f.write(base64.b64decode(shot["data"]))

    def size(self):
        return {"width": self.run("return document.documentElement.clientWidth"),
                "height": self.run("return document.documentElement.scrollHeight")}
