# SPDX-License-Identifier: Apache-2.0
"""A host by hand that keeps asking in a thread of its own, and is asked for what became of it."""
import threading

import rawnbd


class Load(threading.Thread):
    """What it sends and how it takes the answers is play()'s, which ends when `ending` is set and nothing is left of `asked`."""

    def __init__(self, gateway, volume=b"", source=None):
        super().__init__(daemon=True)
        self.host = rawnbd.Host(gateway.address, export=volume, source=source)
        self.asked, self.ending, self.failed = set(), threading.Event(), None

    def run(self):
        try:
            self.play()
            self.host.send(rawnbd.DISC, 0)
        except Exception as e:  # to be told to the test's own thread
            self.failed = e
        finally:
            self.host.sock.close()

    def finish(self):
        self.ending.set()
        self.join(60)
        if self.failed:
            raise self.failed
        if self.is_alive():
            raise AssertionError(f"{len(self.asked)} requests were never answered")
