# SPDX-License-Identifier: Apache-2.0
"""Many gateways, played by bench/gwload: see there for the commands."""
import json
import os
import subprocess

import weirtest

GWLOAD = os.path.join(weirtest.BUILD, "bench", "gwload")


def quantile(hist, q):
    """In milliseconds; the upper edge of the bucket. None: nothing was recorded."""
    seen = 0
    for high, n in hist["buckets"]:
        seen += n
        if seen >= q * hist["count"]:
            return high / 1e6
    return None


def merge(hists):
    """One distribution of several."""
    buckets = {}
    for h in hists:
        for high, n in h["buckets"]:
            buckets[high] = buckets.get(high, 0) + n
    return {"count": sum(h["count"] for h in hists), "sum_ns": sum(h["sum_ns"] for h in hists),
            "max_ns": max([h["max_ns"] for h in hists], default=0), "buckets": sorted(buckets.items())}


class Played:
    """One gwload process; close() ends it."""

    def __init__(self, server_address, key_file, gateways, *args):
        self.gateways = gateways
        self.popen = subprocess.Popen([GWLOAD, "--connect", server_address, "--key", key_file, "--gateways", str(gateways),
                                       *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.expect_ok()

    @property
    def pid(self):
        return self.popen.pid

    def line(self):
        line = self.popen.stdout.readline()
        if not line:
            raise AssertionError(f"gwload ended with status {self.popen.wait()}")
        return line

    def expect_ok(self):
        line = self.line()
        if line != "ok\n":
            raise AssertionError(f"gwload answered {line!r}")

    def send(self, *words):
        self.popen.stdin.write(" ".join(map(str, words)) + "\n")
        self.popen.stdin.flush()

    def do(self, *words):
        self.send(*words)
        self.expect_ok()

    def report(self):
        self.send("report")
        return json.loads(self.line())

    def wait_up(self, gateways=None, patience=60):
        """Until so many sessions stand."""
        want = self.gateways if gateways is None else gateways
        weirtest.wait_until(lambda: self.report()["up"] == want, f"{want} played gateways to stand", patience)

    def close(self):
        if self.popen.poll() is None:
            self.popen.stdin.close()
            try:
                self.popen.wait(weirtest.PATIENCE)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        self.popen.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
