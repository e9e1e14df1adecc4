# SPDX-License-Identifier: Apache-2.0
"""Goal: promises hold over two gateways on the real path: a bully behind the other one, a storage that turns slow; and observing
changes nothing.
Method: the demo's device behind two gateways (tests/lib/twogateways.py), fio as clients. Orders of events and outcomes are looked at,
with wide margins; no speed is asserted."""
import time

import weirtest
from twogateways import LONG, TwoGatewaysCase, fio

GOLD = {"kind": "Agreement", "name": "gold", "appliesTo": {"volume": "db"}, "weight": 200,
        "objectives": [{"percentile": 99, "latency": "15ms", "whileIops": 600}], "reservation": {"iops": 200}}


class Promises(TwoGatewaysCase):
    def start_story(self):
        """A victim behind the first gateway, its bully behind the second."""
        self.server.put("/agreements/gold", GOLD)
        self.victim = fio(self.world, self.gateways[0], "db", "--rw=randread", "--bs=8k", "--iodepth=16", "--rate_iops=300")
        self.bully = fio(self.world, self.gateways[1], "batch", "--rw=randread", "--bs=16k", "--iodepth=128")

    def wait_met(self, what):
        weirtest.wait_until(lambda: (s := self.stream("db")) and s["verdict"] == "met", what, LONG)

    def throttles(self):
        return [a for a in self.server.items("/actions?limit=500") if a["enforced"] and a["verb"] == "throttle"]

    def planned(self):
        return [c for g in self.gateways for c in g.local(get="controls")["controls"] if c.get("origin") == "planned"]

    def test_a_bully_behind_the_other_gateway_is_held_back_and_the_promise_survives_a_slow_storage(self):
        self.start()
        self.start_story()
        weirtest.wait_until(self.planned, "something to be planned", LONG)
        self.wait_met("the promise to be kept beside the bully")
        with open(self.slow, "w", encoding="ascii"):
            pass
        time.sleep(3)  # so that the slow storage is seen
        self.wait_met("the promise to be kept by a storage that is slower by 40 %")
        self.assertGreater(self.rate("batch"), 1)
        # What no share can keep, because the storage's own service takes longer, is tried by cutting the bully, and said.
        self.server.put("/agreements/gold", {**GOLD, "objectives": [{"percentile": 99, "latency": "500us", "whileIops": 600}]})
        [sent, *_] = weirtest.wait_until(lambda: [a for a in self.throttles() if a["agreementVersion"] == 2], "the bully to be cut", LONG)
        self.assertTrue(sent["victim"].endswith("/db") and sent["bully"].endswith("/batch"), sent)
        self.assertEqual((sent["gateway"], sent["agreement"]), ("gw2", "gold"))
        self.assertGreater(sent["victimLatencyUs"], sent["objectiveUs"])
        self.assertRegex(sent["reason"], r"batch.*IOPS.*db.*gold")
        said = self.world.cli(self.server, "explain", "stream", self.stream("batch")["key"], check=True).stdout
        self.assertRegex(said, r"Last actions\n(.*\n)*? .*throttled .*batch from \d+ to \d+ IOPS")
        self.assertTrue(self.victim.alive() and self.bully.alive())

    def test_observing_changes_nothing_until_a_policy_enforces_one_target(self):
        self.start("--observe")
        self.start_story()
        found = weirtest.wait_until(lambda: [a for a in self.server.items("/actions?limit=50") if a["decision"] == "observe"],
                                    "an action that was observed only", LONG)
        self.assertFalse(found[0]["enforced"])
        time.sleep(3)
        self.assertEqual(self.planned(), [])
        self.assertFalse([c for g in self.gateways for c in g.local(get="controls")["controls"]])
        self.assertFalse([a for a in self.server.items("/actions?limit=500") if a["enforced"]])
        said = self.world.cli(self.server, "explain", "stream", self.stream("batch")["key"], check=True).stdout
        self.assertIn("The server observes", said)
        self.assertRegex(said, r"Wanted, and not sent\n .*would throttle .*batch")
        self.server.put("/policies/on", {"kind": "Policy", "name": "on", "appliesTo": {"target": "*"}, "enforce": True})
        weirtest.wait_until(self.planned, "something planned to be in force", LONG)
        self.wait_met("the promise to be kept once it is enforced")


if __name__ == "__main__":
    weirtest.main()
