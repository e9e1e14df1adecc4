#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a reservation that a busy target cannot carry is refused with the numbers and the names, is put all the same by who
insists, and that is written down.
Method: the demo's device (four servers of 4 ms: some 1,000 I/Os a second) in nbdkit, one gateway, one server, fio at depth until the
gateway says how much the device can do at once. What is reserved is far beyond or far below what any machine makes of that device.
"""
import os
import unittest

import weirtest

PLUGIN = os.path.join(weirtest.BUILD, "demo", "nbdkit-device-plugin.so")


def agreement(name, volume, iops, **more):
    return {"kind": "Agreement", "name": name, "appliesTo": {"volume": volume}, "reservation": {"iops": iops}, **more}


class Admission(unittest.TestCase):
    def wait_event(self, server, kind):
        weirtest.wait_until(lambda: kind in [e["kind"] for e in server.items("/events?limit=100")], f"the event {kind}", 60)

    def test_what_does_not_fit_is_refused_with_numbers_and_names_and_force_is_written_down(self):
        weirtest.need("fio", PLUGIN)
        with weirtest.World() as w:
            storage = w.nbdkit("-t", "256", PLUGIN, "parallel=4", "service=4000", "export=db", "export=batch")
            server = w.server()
            gateway = w.gateway(target=storage.uri, server=server, name="gw")
            weirtest.wait_until(lambda: [g for g in server.items("/gateways") if g["state"] == "admitted"], "the gateway")
            server.put("/agreements/small", agreement("small", "db", 20, weight=200))
            for volume in ("db", "batch"):
                weirtest.Process(w, f"fio-{volume}", [
                    "fio", f"--name={volume}", "--ioengine=nbd", f"--uri={gateway.uri(volume)}", "--rw=randread", "--bs=4k",
                    "--iodepth=32", "--time_based", "--runtime=600", "--size=64m", "--norandommap"])
            file = w.path("big.yaml")
            with open(file, "w", encoding="ascii") as f:
                f.write("kind: Agreement\nname: big\nappliesTo: { volume: batch }\nreservation: { iops: 1000000 }\n")

            def dry():
                return server.request("PUT", "/api/v1/agreements/big?dryRun=true", agreement("big", "batch", 1000000))
            weirtest.wait_until(lambda: dry()[0] == 409, "the gateway to find out what the device can do", 120)
            status, _, problem = server.request("PUT", "/api/v1/agreements/big", agreement("big", "batch", 1000000))
            self.assertEqual(status, 409)
            [target] = problem["admission"]
            self.assertGreater(target["capacity"], 0)
            self.assertEqual(target["askedIops"], 1000000)
            self.assertLess(target["largestIops"], 1000000)
            self.assertFalse(target["fits"])
            self.assertEqual([h["agreement"] for h in target["holders"]], ["small"])
            self.assertIn("agreement small holds", " ".join(problem["errors"]))
            self.assertEqual(server.request("GET", "/api/v1/agreements/big")[0], 404)
            self.wait_event(server, "agreement-refused")
            # What would fit fits.
            self.assertEqual(server.request("PUT", "/api/v1/agreements/big?dryRun=true", agreement("big", "batch", 5))[0], 200)
            said = w.cli(server, "apply", "-f", file)
            self.assertNotEqual(said.returncode, 0)
            self.assertRegex(said.stderr, r"would fit")
            self.assertIn("--force", said.stderr)
            self.assertIn("big created", w.cli(server, "apply", "--force", "-f", file, check=True).stdout)
            self.wait_event(server, "agreement-forced")
            self.assertIn("document-put-forced", [a["verb"] for a in server.items("/audit?limit=100")])
            self.wait_event(server, "overcommitted")


if __name__ == "__main__":
    weirtest.main()
