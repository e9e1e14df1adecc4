# SPDX-License-Identifier: Apache-2.0
"""Goal: the page shows live what the server knows, runs nothing that a host smuggled into a name, says when its news is
old, and can be used on a phone and without a mouse.
Method: a real device with too little room for two clients, gateway, server and fio; a headless Chromium by WebDriver. What is
asserted is text that appears in time, never a picture; pictures are kept in WEIR_SCREENSHOTS when that is set."""
import json
import os
import time
import unittest

import nbd
import weirtest
from webdriver import Browser
from weirtest import wait_until

HOSTILE = "<img src=x onerror=document.title='owned'>"
AGREEMENT = {"kind": "Agreement", "name": "oltp-gold", "appliesTo": {"volume": "db"},
             "objectives": [{"percentile": 99, "latency": "8ms", "whileIops": 1500}], "reservation": {"iops": 1000}}


class PageCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        weirtest.need("fio", "chromium", "chromedriver")
        cls.world = weirtest.World()
        cls.world.__enter__()
        try:
            cls.start()
        except BaseException:
            cls.world.__exit__(None, None, None)
            raise

    @classmethod
    def start(cls):
        w = cls.world
        plugin = os.path.join(weirtest.BUILD, "demo", "nbdkit-device-plugin.so")
        storage = w.nbdkit("-t", "256", plugin, "parallel=8", "service=1000", "per-kib=4", "jitter=50", "export=db", "export=batch",
                           f"export={HOSTILE}")
        cls.server = w.server()
        cls.gateway = w.gateway(target=storage.uri, server=cls.server, name="gw-page")
        cls.server.put("/agreements/oltp-gold", AGREEMENT)
        cls.server.put("/enforcement", {"on": False})
        cls.fio("db", "--rw=randrw", "--rwmixread=70", "--bs=8k", "--iodepth=16", "--rate_iops=700,300")
        cls.fio("batch", "--rw=randread", "--bs=16k", "--iodepth=128")
        cls.hostile = nbd.NBD()
        cls.hostile.set_export_name(HOSTILE)
        cls.hostile.connect_tcp("127.0.0.1", str(cls.gateway.port))
        cls.hostile.pread(4096, 0)
        wait_until(lambda: len(cls.server.items("/streams")) == 3, "three streams")

    @classmethod
    def fio(cls, name, *args):
        weirtest.Process(cls.world, name, ["fio", f"--name={name}", "--ioengine=nbd", f"--uri={cls.gateway.uri(name)}", "--time_based",
                                           "--runtime=86400", "--size=192m", "--randrepeat=0", "--output=/dev/null", *args])

    @classmethod
    def tearDownClass(cls):
        cls.hostile.shutdown()
        cls.world.__exit__(None, None, None)

    def browser(self, **kw):
        b = Browser(**kw)
        self.addCleanup(b.close)
        return b

    def shoot(self, b, name):
        folder = os.environ.get("WEIR_SCREENSHOTS") or self.world.dir
        b.screenshot(os.path.join(folder, name + ".png"))

    def wait_text(self, b, selector, text, patience=weirtest.PATIENCE):
        try:
            wait_until(lambda: text in (b.text(selector) or ""), f"{text!r} in {selector}", patience)
        except AssertionError:
            print(f"{selector} has: {b.text(selector)}")
            raise

    def test_1_streams_promises_and_actions_appear_live(self):
        b = self.browser()
        b.open(self.server.http + "/")
        self.wait_text(b, "#chips", "Live")
        self.wait_text(b, "#chips", "Enforcement off")
        self.wait_text(b, "#stream-table", "127.0.0.1/db")
        self.wait_text(b, "#stream-table", "127.0.0.1/batch")
        self.wait_text(b, "#agreement-table", "oltp-gold")
        self.wait_text(b, "#stream-table", "failing", 60)
        self.wait_text(b, "#events", "agreement-violated")
        self.wait_text(b, "#gateway-table", "gw-page")
        self.wait_text(b, "#target-table", "reachable", 60)
        b.run("window.before = document.querySelector('#stream-table tbody tr'); window.same = true;")
        self.server.put("/enforcement", {"on": True})
        self.wait_text(b, "#actions", "127.0.0.1/batch", 60)
        self.wait_text(b, "#actions", "victim 127.0.0.1/db")
        self.wait_text(b, "#chips", "Enforcement on")
        self.wait_text(b, "#stream-table", "throttled 127.0.0.1/batch")
        self.wait_text(b, "#focus-panels", "held back".upper())
        self.assertTrue(b.run("return document.body.contains(window.before)"), "rows are made anew instead of changed")
        self.assertEqual(b.console(), [])
        time.sleep(8)
        self.shoot(b, "page")

    def test_2_names_from_hosts_stay_text(self):
        b = self.browser()
        b.open(self.server.http + "/")
        self.wait_text(b, "#stream-table", "onerror")
        # The server escapes names; the page must not need that. Give it a raw one as if it did not.
        raw = [s for s in self.server.items("/streams") if s["volume"] == "db"]
        raw[0].update(key="h/" + HOSTILE, volume=HOSTILE, tenant=HOSTILE, agreement=HOSTILE, heldBy=HOSTILE)
        raw[0]["control"].update(since="2026-01-01T00:00:00Z", reason=HOSTILE)
        event = {"id": "1", "at": "2026-01-01T00:00:00Z", "severity": "error", "kind": HOSTILE, "subject": HOSTILE, "text": HOSTILE}
        b.cdp("Page.addScriptToEvaluateOnNewDocument", source="""
          window.EventSource = class extends EventTarget {
            constructor() {
              super();
              this.readyState = 1;
              const say = (name, data) => this.dispatchEvent(new MessageEvent(name, {data: JSON.stringify(data)}));
              setInterval(() => say("streams", %s), 500);
              setTimeout(() => say("event", %s), 500);
            }
          };
          window.EventSource.CLOSED = 2;""" % (json.dumps(raw), json.dumps(event)))
        b.open(self.server.http + "/")
        self.wait_text(b, "#stream-table", "h/" + HOSTILE)
        self.wait_text(b, "#events", HOSTILE)
        self.wait_text(b, "#focus-panels", HOSTILE)
        self.assertEqual(b.run("return document.querySelectorAll('main img').length"), 0)
        self.assertEqual(b.run("return document.title").replace("Weir", "").strip("() failing0123456789"), "")

    def test_3_old_news_is_said_to_be_old_and_the_page_comes_back(self):
        state, http = self.world.path("other"), f"127.0.0.1:{weirtest.free_port()}"
        other = self.world.server(state_dir=state, http=http)
        b = self.browser()
        b.open(other.http + "/")
        self.wait_text(b, "#chips", "Live")
        self.assertEqual(b.run("return document.getElementById('stale').hidden"), True)
        other.stop()
        self.wait_text(b, "#chips", "Stale")
        self.wait_text(b, "#stale", "has said nothing for")
        self.world.server(state_dir=state, http=http).put("/tenants/later", {"kind": "Tenant", "name": "later", "members": [{"host": "*"}]})
        self.wait_text(b, "#chips", "Live", 60)
        self.assertEqual(b.run("return document.getElementById('stale').hidden"), True)

    def test_4_a_narrow_dark_screen_needs_no_sideways_scrolling(self):
        b = self.browser(dark=True)
        b.cdp("Emulation.setDeviceMetricsOverride", width=400, height=900, deviceScaleFactor=2, mobile=True)
        b.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        b.open(self.server.http + "/")
        self.wait_text(b, "#stream-table", "127.0.0.1/db")
        self.assertEqual(b.run("return document.documentElement.clientWidth"), 400)
        self.assertLessEqual(b.run("return document.documentElement.scrollWidth"), 400)
        background = b.run("return getComputedStyle(document.body).backgroundColor")
        self.assertLess(sum(int(n) for n in background[4:-1].split(",")), 150, background)
        time.sleep(3)
        self.shoot(b, "page-narrow-dark")

    def test_5_the_keyboard_reaches_everything(self):
        b = self.browser()
        b.open(self.server.http + "/")
        self.wait_text(b, "#stream-table", "127.0.0.1/batch")
        reached = []
        for _ in range(12):
            b.keys("\ue004")  # Tab
            reached.append(b.run("const e = document.activeElement; return e.id || e.innerText || e.tagName"))
        self.assertTrue(any("Skip" in r for r in reached), reached)
        self.assertIn("filter", reached)
        self.assertIn("127.0.0.1/batch", reached)
        b.run("[...document.querySelectorAll('#stream-table button')].find(e => e.innerText === '127.0.0.1/batch').focus()")
        b.keys("\ue007")  # Enter
        self.wait_text(b, "#focus-panels .victim + h3", "127.0.0.1/batch")
        b.run("document.getElementById('filter').focus()")
        b.keys("batch")
        names = "return [...document.querySelectorAll('#stream-table button')].map(e => e.innerText)"
        wait_until(lambda: b.run(names) == ["127.0.0.1/batch"], "the filter to hide the others")
        # Whatever has a role of its own has words for those who do not see it.
        self.assertEqual(b.run("return [...document.querySelectorAll('canvas:not([aria-label])')].length"), 0)


if __name__ == "__main__":
    weirtest.main()
