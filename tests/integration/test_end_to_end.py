# SPDX-License-Identifier: Apache-2.0
"""Goal: a promise broken by a neighbour is kept again by Weir.
Method: the story of tests/lib/story.py; what is checked is what Weir decided and what the gateway applied, read through the API and the
local socket. Nothing here asserts a speed of this machine: waits are bounds on polling loops."""
import signal

import weirtest
from story import AGREEMENT, StoryCase, applied, bully, stream, throttles, victim


def waits(bully):
    """The gateway really holds back: by a limit, or, where the window came first and sufficed, by the bully's turn at the target."""
    if not bully:
        return False
    held, total, target = (bully["latency"][k] for k in ("held", "total", "target"))
    return held["p99Us"] > 0 or total["p50Us"] > 2 * target["p50Us"] > 0


class EndToEnd(StoryCase):
    def wait_met(self):
        weirtest.wait_until(lambda: (s := stream(self.server, "db")) and s["verdict"] == "met", "the promise to be kept", 90)

    def test_a_bully_is_held_back_and_let_go(self):
        self.start_story()
        self.wait_planned()
        weirtest.wait_until(lambda: waits(stream(self.server, "batch")), "I/O of the bully to be held back")
        self.wait_met()
        self.bully.stop(signal.SIGINT)
        weirtest.wait_until(lambda: not applied(self.server), "no throttle to stay when the bully is gone", 90)
        self.wait_met()

    def test_a_protected_bully_is_not_throttled(self):
        self.start()
        self.server.put("/policies/hands-off", {"kind": "Policy", "name": "hands-off", "appliesTo": {"volume": "batch"},
                                                "protect": True})
        self.server.put("/agreements/gold", AGREEMENT)
        self.clients = victim(self.world, self.gateway), bully(self.world, self.gateway)
        self.wait_planned()
        self.wait_met()
        self.assertIsNone(applied(self.server))
        self.assertEqual([], throttles(self.server))


if __name__ == "__main__":
    weirtest.main()
