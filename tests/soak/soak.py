# SPDX-License-Identifier: Apache-2.0
"""Goal: hours of work with limits changing and faults arriving leave memory and descriptors flat, no byte altered, and no counter
fallen.
Method: one gateway and one server before nbdkit; writers that verify all they read back, through connections that come and go;
agreements that change, clients that hang up, reset or send garbage, targets and servers that are killed and started again, workers
that are killed, hang, or are replaced by an upgrade. Every fault is drawn from a seed that is printed. SOAK_SECONDS (3600) and
SOAK_SEED set length and chance.

A new worker begins with fresh memory, which would hide a leak. So workers are left alone in the first half and in the last
quarter: of each such stretch the first part warms up (a quarter of the whole, a third of the last one), after which resident memory
may grow by 8 MiB and descriptors by 16, of worker, manager and server alike, at every look and at the end."""
import os
import random
import signal
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import nbd  # noqa: E402
import rawnbd  # noqa: E402
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


def look(process):
    """(resident memory in KiB, descriptors) of a process by its pid; None when it has gone."""
    try:
        with open(f"/proc/{process}/status") as f:
            rss = int(next(x for x in f if x.startswith("VmRSS:")).split()[1])
        return rss, len(os.listdir(f"/proc/{process}/fd"))
    except (OSError, StopIteration):
        return None


class Flat:
    """Memory and descriptors of one process: what they were once warm, and that they stay so."""

    def __init__(self, name):
        self.name, self.pid, self.base, self.now = name, None, None, (0, 0)

    def see(self, pid, warm):
        now = look(pid)
        if now is None:
            return
        self.now = now
        if pid != self.pid:
            self.pid, self.base = pid, None
        if self.base is None or not warm:
            self.base = now if warm else None
            return
        grown = (now[0] - self.base[0], now[1] - self.base[1])
        if grown[0] > MAX_RSS_KIB or grown[1] > MAX_DESCRIPTORS:
            raise AssertionError(f"{self.name} grew by {grown[0]} KiB and {grown[1]} descriptors since {self.base}")


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
        config = ("[gateway]\nworker-timeout = 8s\ndrain-timeout = 1s\n[listener l]\naddress = 127.0.0.1:0\ntarget = t\n"
                  f"[target t]\nuri = {self.storage.uri}\n" + "".join(f"[volume v{i}]\ntarget = t\n" for i in range(8)))
        self.gateway = world.gateway(config=config, server=self.server, name="soak")
        self.gateway.deaths_expected = True
        self.writers = [Writer(i, self.gateway.uri(f"v{i}"), rng.random(), self.stop) for i in range(8)]
        self.faults, self.counted, self.deaths, self.upgrades = {}, {}, 0, 0
        self.flat = {name: Flat(name) for name in ("worker", "manager", "server")}

    # --- faults

    def fault_limit(self):
        i = self.rng.randrange(8)
        self.server.put(f"/agreements/soak-{i}", limit_of(self.rng, i))

    def fault_unlimit(self):
        self.server.request("DELETE", f"/api/v1/agreements/soak-{self.rng.randrange(8)}")

    def fault_hang_up(self):
        h = nbd.NBD()
        h.connect_uri(self.gateway.uri(f"v{self.rng.randrange(8)}"))
        for k in range(64):
            h.aio_pread(nbd.Buffer(65536), k * 65536)
        del h

    def fault_garbage(self):
        with socket.create_connection(("127.0.0.1", self.gateway.port)) as s:
            s.sendall(self.rng.randbytes(4096))

    def fault_reset(self):
        """In the middle of the payload of a write, to a place that nobody reads."""
        h = rawnbd.Host(self.gateway.address, export=f"v{self.rng.randrange(8)}".encode())
        h.send(rawnbd.WRITE, 1, 8 * SLICE, 1 << 20, payload=bytes(self.rng.randrange(1 << 20)))
        h.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        h.sock.close()

    def fault_target(self):
        self.storage.kill()
        time.sleep(self.rng.random())
        self.storage = self.w.nbdkit("file", self.disk, port=self.storage.port)

    def fault_server(self):
        control, http = self.server.control, self.server.http.removeprefix("http://")
        self.server.kill()
        time.sleep(self.rng.random())
        self.server = self.w.server(http=http, control=control)

    def fault_worker(self):
        self.gateway.kill_worker()
        self.deaths += 1

    def fault_hang(self):
        old = self.gateway.pid
        os.kill(old, signal.SIGSTOP)
        self.gateway.wait_worker(old)
        self.deaths += 1

    def fault_upgrade(self):
        """To the same program. Connections of the old worker end within drain-timeout, a second."""
        old = self.gateway.pid
        self.gateway.tell(signal.SIGUSR2)
        self.gateway.wait_worker(old)
        weirtest.wait_until(lambda: len(self.gateway.workers()) == 1, "the old worker to end")
        self.upgrades += 1

    def fault(self, of_workers):
        kinds = ["limit", "limit", "limit", "unlimit", "hang_up", "garbage", "reset", "target", "server"]
        kind = self.rng.choice(kinds + (["worker", "worker", "hang", "upgrade", "upgrade"] if of_workers else []))
        if of_workers and self.deaths == 0:
            kind = "worker"
        elif of_workers and self.upgrades == 0:
            kind = "upgrade"
        self.faults[kind] = self.faults.get(kind, 0) + 1
        getattr(self, "fault_" + kind)()

    # --- checks

    def check(self, warm):
        wrong = [x.wrong for x in self.writers if x.wrong]
        if wrong or not self.gateway.alive():
            raise AssertionError(wrong or self.gateway.output()[-4000:])
        for s in self.gateway.local(get="streams")["streams"]:
            for op, counters in s["counters"].items():
                for name, value in counters.items():
                    key = (s["key"], op, name)
                    if value < self.counted.get(key, 0):
                        raise AssertionError(f"{key} fell from {self.counted[key]} to {value}")
                    self.counted[key] = value
        manager = self.gateway.local(get="status")["status"]["manager"]
        if (manager["upgrades"], manager["upgradesFailed"]) != (self.upgrades, 0):
            raise AssertionError(f"{self.upgrades} upgrades were asked for; {manager}\n{self.gateway.output()[-4000:]}")
        if manager["deaths"] != self.deaths:
            raise AssertionError(f"{self.deaths} workers were killed, {manager['deaths']} died; {manager}\n{self.gateway.output()[-4000:]}")
        for name, pid in (("worker", self.gateway.pid), ("manager", self.gateway.popen.pid), ("server", self.server.pid)):
            self.flat[name].see(pid, warm)

    def run(self):
        for writer in self.writers:
            writer.start()
        began = time.monotonic()
        while (part := (time.monotonic() - began) / SECONDS) < 1:
            time.sleep(min(2.0, SECONDS / 20))
            of_workers = 0.5 <= part < 0.75
            self.fault(of_workers)
            self.check(0.25 <= part < 0.5 or part >= 0.83)
            seen = "  ".join(f"{f.name} {f.now[0]} KiB {f.now[1]} fds" for f in self.flat.values())
            print(f"{part * SECONDS:7.0f} s  {seen}  I/Os {sum(x.ios for x in self.writers)}  cuts "
                  f"{sum(x.cuts for x in self.writers)}  faults {self.faults}", flush=True)
        self.stop.set()
        for writer in self.writers:
            writer.join(weirtest.PATIENCE)
        self.check(True)
        done = sum(x.ios for x in self.writers)
        counted = sum(v for (_, _, name), v in self.counted.items() if name == "completions")
        if done == 0 or counted < done:
            raise AssertionError(f"{done} I/Os were answered, {counted} counted")
        return done


def main():
    print(f"soak: {SECONDS:.0f} s; again with SOAK_SEED={SEED}", flush=True)
    with weirtest.World() as w:
        ios = Soak(w, random.Random(SEED)).run()
    print(f"{ios} verified I/Os")
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
