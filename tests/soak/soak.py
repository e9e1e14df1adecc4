# SPDX-License-Identifier: Apache-2.0
"""Goal: hours of work with limits changing and faults arriving leave memory and descriptors flat and no byte altered.
Method: one gateway and one server before nbdkit; writers that verify all they read back, through connections that come and go;
agreements that change, clients and targets that are killed, a server that is killed and started again. Every fault is drawn from
a seed that is printed. SOAK_SECONDS (3600) and SOAK_SEED set length and chance.

The first quarter warms up; after it resident memory may grow by 8 MiB and descriptors by 16, at each quiet point."""
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import nbd  # noqa: E402
import weirtest  # noqa: E402

SECONDS = float(os.environ.get("SOAK_SECONDS", "3600"))
SEED = int(os.environ.get("SOAK_SEED", str(random.SystemRandom().randrange(1 << 31))))
SLICE = 4 << 20  # each writer owns so much of the volume
MAX_RSS_KIB, MAX_DESCRIPTORS = 8 * 1024, 16


class Writer(threading.Thread):
    """Writes blocks that name their place and version, reads them back, and reconnects when cut off. What was in flight
    at a cut may be old or new; everything acknowledged must be there."""

    def __init__(self, index, uri, seed, stop):
        super().__init__(daemon=True)
        self.index, self.uri, self.stop_event, self.rng = index, uri, stop, random.Random(seed)
        self.acked, self.maybe = {}, {}
        self.ios = self.cuts = 0
        self.wrong = None

    def block(self, at, version):
        return f"{self.index}:{at}:{version};".encode().ljust(64, b".") * 64

    def once(self):
        h = nbd.NBD()
        h.connect_uri(self.uri)
        for _ in range(self.rng.randrange(20, 400)):
            if self.stop_event.is_set():
                break
            at = self.rng.randrange(SLICE // 4096)
            offset = self.index * SLICE + at * 4096
            if self.rng.random() < 0.5:
                version = self.ios
                self.maybe[at] = self.block(at, version)
                h.pwrite(self.maybe[at], offset)
                self.acked[at] = self.maybe.pop(at)
            else:
                got = bytes(h.pread(4096, offset))
                lawful = {self.acked.get(at, bytes(4096)), self.maybe.get(at, self.acked.get(at, bytes(4096)))}
                if got not in lawful:
                    self.wrong = f"block {at} of writer {self.index}: {got[:64]!r}, expected one of {[x[:64] for x in lawful]}"
                    return
                self.acked[at] = got
                self.maybe.pop(at, None)
            self.ios += 1
        h.shutdown()

    def run(self):
        while not self.stop_event.is_set() and self.wrong is None:
            try:
                self.once()
            except nbd.Error:
                self.cuts += 1
                time.sleep(0.1)


def limit_of(rng, i):
    limits = [{"iops": rng.choice([50, 500, 5000])}, {"bandwidth": "4MiB/s"}, {"iopsWrite": 200},
              {"iops": 200, "burst": {"iops": 2000, "for": "2s"}}]
    return {"kind": "Agreement", "name": f"soak-{i}", "appliesTo": {"volume": f"v{i}"}, "limit": rng.choice(limits)}


class Soak:
    def __init__(self, world, rng):
        self.w, self.rng = world, rng
        self.stop = threading.Event()
        # Data outlives the target's death: a file, not memory.
        self.disk = world.path("disk.img")
        with open(self.disk, "wb") as f:
            f.truncate(64 << 20)
        self.storage = world.nbdkit("file", self.disk)
        self.server = world.server()
        config = (f"[listener l]\naddress = 127.0.0.1:0\ntarget = t\n[target t]\nuri = {self.storage.uri}\n"
                  + "".join(f"[volume v{i}]\ntarget = t\n" for i in range(8)))
        self.gateway = world.gateway(config=config, server=self.server, name="soak")
        self.writers = [Writer(i, self.gateway.uri(f"v{i}"), rng.random(), self.stop) for i in range(8)]
        self.faults = {}

    def fault(self):
        kind = self.rng.choice(["limit", "limit", "limit", "unlimit", "hang-up", "garbage", "target", "server"])
        self.faults[kind] = self.faults.get(kind, 0) + 1
        i = self.rng.randrange(8)
        if kind == "limit":
            self.server.put(f"/agreements/soak-{i}", limit_of(self.rng, i))
        elif kind == "unlimit":
            self.server.request("DELETE", f"/api/v1/agreements/soak-{i}")
        elif kind == "hang-up":
            h = nbd.NBD()
            h.connect_uri(self.gateway.uri(f"v{i}"))
            for k in range(64):
                h.aio_pread(nbd.Buffer(65536), k * 65536)
            del h
        elif kind == "garbage":
            import socket
            with socket.create_connection(("127.0.0.1", self.gateway.port)) as s:
                s.sendall(self.rng.randbytes(4096))
        elif kind == "target":
            self.storage.kill()
            time.sleep(self.rng.random())
            self.storage = self.w.nbdkit("file", self.disk, port=self.storage.port)
        else:
            control, http = self.server.control, self.server.http.removeprefix("http://")
            self.server.kill()
            time.sleep(self.rng.random())
            self.server = self.w.server(http=http, control=control)

    def run(self):
        for writer in self.writers:
            writer.start()
        began, base = time.monotonic(), None
        while time.monotonic() - began < SECONDS:
            time.sleep(min(2.0, SECONDS / 20))
            self.fault()
            wrong = [x.wrong for x in self.writers if x.wrong]
            if wrong or not self.gateway.alive():
                raise AssertionError(wrong or self.gateway.output()[-4000:])
            now = (self.gateway.rss_kib(), self.gateway.descriptors())
            if base is None and time.monotonic() - began > SECONDS / 4:
                base = now
            print(f"{time.monotonic() - began:7.0f} s  rss {now[0]} KiB  descriptors {now[1]}  I/Os "
                  f"{sum(x.ios for x in self.writers)}  cuts {sum(x.cuts for x in self.writers)}  faults {self.faults}", flush=True)
        self.stop.set()
        for writer in self.writers:
            writer.join(weirtest.PATIENCE)
        weirtest.wait_until(lambda: self.gateway.descriptors() <= base[1] + MAX_DESCRIPTORS, "descriptors to be given back", 60)
        grown = self.gateway.rss_kib() - base[0]
        if grown > MAX_RSS_KIB:
            raise AssertionError(f"resident memory grew by {grown} KiB")
        wrong = [x.wrong for x in self.writers if x.wrong]
        if wrong:
            raise AssertionError(wrong)
        return sum(x.ios for x in self.writers), grown


def main():
    print(f"soak: {SECONDS:.0f} s; again with SOAK_SEED={SEED}", flush=True)
    with weirtest.World() as w:
        ios, grown = Soak(w, random.Random(SEED)).run()
    print(f"{ios} verified I/Os, memory grew by {grown} KiB after the first quarter")
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
