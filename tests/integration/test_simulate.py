# SPDX-License-Identifier: Apache-2.0
"""Goal: `weir simulate` predicts, from made-up loads and from traces, what each stream gets and what is done, as a table, as JSON and as
plots; the same file and seed give the same, and what is wrong in a file is told with its place.
Method: the program itself on small scenarios of a few seconds; outputs are parsed with other people's parsers."""
import json
import os
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree

import weirtest

SCENARIO = """\
kind: Scenario
duration: 12s
warmup: 2s
gateways: 2
{more}targets:
  - {{ name: array1, servers: 8, read: 900us, write: 900us, bandwidth: 40MB/s, spread: 50% }}
  - {{ name: array2, servers: 8, read: 900us, write: 900us, bandwidth: 40MB/s }}
loads:
  - {{ host: db1, volume: db-1, tenant: acme, gateway: 1, rate: 1000, size: 4KiB, writes: 30% }}
  - {{ host: copy, volume: copy, gateway: 2, {copy} }}
---
kind: Agreement
name: gold
appliesTo: {{ volume: "db-*" }}
objectives:
  - {{ percentile: 99, latency: 10ms, whileIops: 2000 }}
reservation: {{ iops: 1000 }}
---
kind: Agreement
name: slow
appliesTo: {{ volume: copy }}
limit: {{ iops: 500 }}
"""
BULLY = "depth: 64, size: 4KiB, from: 1s"


class Simulate(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="weir-simulate-")
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, name, text):
        with open(self.path(name), "w") as f:
            f.write(text)
        return self.path(name)

    def simulate(self, copy=BULLY, *args, more="", status=0):
        file = self.write("scenario.yaml", SCENARIO.format(copy=copy, more=more))
        r = subprocess.run([weirtest.WEIR, "simulate", file, *args], capture_output=True, text=True, timeout=120)
        self.assertEqual(r.returncode, status, r.stderr)
        return r

    def json(self, *args, **other):
        return json.loads(self.simulate(*args, "-o", "json", **other).stdout)

    def test_what_streams_get_comes_as_a_table_as_json_and_as_plots(self):
        lines = self.simulate(BULLY, "--plot", self.path("nn")).stdout.splitlines()
        self.assertEqual(lines[0].split(), ["STREAM", "GATEWAY", "IOPS", "BANDWIDTH", "P50", "P99", "OBJECTIVE", "MET"])
        rows = {line.split()[0]: line.split() for line in lines if line}
        self.assertEqual(rows["db1/db-1"][6], "10.0ms")
        for what in ("p99", "iops"):
            root = xml.etree.ElementTree.parse(self.path(f"nn-{what}.svg")).getroot()
            self.assertTrue(root.tag.endswith("svg"))
        j = self.json(BULLY)
        db, copy = j["loads"]
        self.assertEqual((db["stream"], copy["stream"]), ("db1/db-1", "copy/copy"))
        self.assertAlmostEqual(db["iops"], 1000, delta=100)
        self.assertAlmostEqual(copy["iops"], 500, delta=5)  # what it may
        self.assertEqual(sum(n > 800 for n in db["iopsBySecond"]), 12)
        self.assertEqual([t["name"] for t in j["targets"]], ["array1", "array2"])

    def test_a_seed_decides_everything_and_another_scheme_or_seed_changes_it(self):
        one = self.json(BULLY, "--seed", "5")
        self.assertEqual(one, self.json(BULLY, "--seed", "5"))
        self.assertNotEqual(one, self.json(BULLY, "--seed", "6"))
        none = self.json(BULLY, "--scheme", "none")
        self.assertGreater(none["loads"][1]["iops"], 2000)  # nobody holds it back

    def test_traces_of_each_format_are_replayed(self):
        # 100 I/Os of 4 KiB, one each 10 ms: a second, over and over.
        msr = [f"{128166372000000000 + i * 100000},host,0,{'Read' if i % 2 else 'Write'},{i * 4096},4096,1000" for i in range(101)]
        cloud = [f"{i / 100:.2f},{'R' if i % 2 else 'W'},{i * 8},4096" for i in range(101)]
        blk = [f"  8,0    1 {i + 1:8} {i / 100:15.9f}  100  Q   R {i * 8} + 8 [fio]" for i in range(101)]
        for kind, rows in (("msr", msr), ("cloudphysics", cloud), ("blkparse", blk)):
            with self.subTest(kind):
                self.write(f"trace.{kind}", "\n".join(rows) + "\n")
                copy = self.json(f"trace: trace.{kind}, traceFormat: {kind}")["loads"][1]
                self.assertAlmostEqual(copy["iops"], 100, delta=3)
                self.assertAlmostEqual(copy["bytesPerSecond"], 100 * 4096, delta=3 * 4096)

    def test_several_processes_and_a_slow_store_are_part_of_it(self):
        more = "processes: 2\nstoreTime: 500ms\nchanges:\n  - { at: 3s, state: down }\n  - { at: 4s, state: up }\n" \
               "  - { at: 6s, process: 2, stall: 2s }\n"
        db = self.json(BULLY + ", target: array2", more=more)["loads"][0]
        self.assertAlmostEqual(db["iops"], 1000, delta=100)

    def test_what_is_wrong_is_told_with_its_place_and_what_was_expected(self):
        for copy, place in (("depth: 0", "loads[1].depth"), ("depth: 4, target: nowhere", "loads[1].target"),
                            ("trace: none.csv", "loads[1].trace"), ("depth: 4, colour: red", "loads[1].colour")):
            with self.subTest(place):
                self.assertIn(f"scenario.yaml: {place}: ", self.simulate(copy, status=2).stderr)


if __name__ == "__main__":
    weirtest.main()
