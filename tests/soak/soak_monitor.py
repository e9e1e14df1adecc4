# SPDX-License-Identifier: Apache-2.0
"""Goal: hours of gateways that come, go, stall, vanish and flood leave the server's memory and descriptors flat, and no counter lost
or counted twice.
Method: played gateways (bench/gwload) before one real server; each step draws one trouble from a seed that is printed (gateways that
leave, storm, flood, read nothing or are half-open, strangers, stolen tokens, reloads that move gateways about), then heals it and looks
at a quiet point: every gateway stands and is admitted, and the sum of all counters that the server holds lies between what the
gateways say just before and just after. The server is ended, killed and started again now and then on the same ports.
SOAK_SECONDS (3600), SOAK_GATEWAYS (240) and SOAK_SEED set length, size and chance; so do three arguments.

Within one life of the server, after it warmed up, resident memory may grow by 24 MiB and descriptors by 32, at each quiet point, once
what the trouble took is given back. It is warm in the last six tenths of a life, when gateways have stormed and moved more than once:
each thread keeps the free memory of its own arena, so that what all of them need at most is had one thread at a time. Until
then it may grow by 96 MiB since its first quiet point."""
import os
import random
import signal
import socket
import sys
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import controlwire  # noqa: E402
import played  # noqa: E402
import weirtest  # noqa: E402

ARGS = dict(enumerate(sys.argv))
SECONDS = float(ARGS.get(1) or os.environ.get("SOAK_SECONDS", "3600"))
GATEWAYS = int(ARGS.get(2) or os.environ.get("SOAK_GATEWAYS", "240"))
SEED = int(ARGS.get(3) or os.environ.get("SOAK_SEED", str(random.SystemRandom().randrange(1 << 31))))
STREAMS = 4
MAX_RSS_KIB, MAX_WARMING_KIB, MAX_DESCRIPTORS = 24 * 1024, 96 * 1024, 32
LIFE = max(SECONDS / 6, min(SECONDS / 2, 200))  # of a server
PATIENCE = 90  # generous: the machine may be busy with other things


class Soak:
    def __init__(self, world, rng):
        self.w, self.rng = world, rng
        self.lives = self.steps = 0
        self.grown, self.base = 0, None
        self.conf = world.path("soak.conf")
        self.start()
        self.load = [self.play(i) for i in range(2)]
        self.next_life = time.monotonic() + LIFE

    def play(self, i):
        n = GATEWAYS // 2
        return played.Played(self.server.control, os.path.join(self.server.state_dir, "gateway.key"), n, "--first", i * n,
                             "--streams", STREAMS, "--active", 2, "--net", i + 1, "--surgers", 4, "--surge-ms", 100)

    def start(self):
        where = {}
        if self.lives:
            where = {"control": self.server.control, "http": self.server.http.removeprefix("http://"),
                     "state_dir": self.server.state_dir}
        self.write_conf(2, 2)
        self.server = self.w.server("--config", self.conf, "--log-level", "warning", **where)
        self.lives += 1
        self.born, self.base, self.first_rss = time.monotonic(), None, None
        self.seen = []  # troubles of this life

    # troubles

    def storm(self):
        self.one().do("storm", self.some())

    def leave(self):
        load = self.one()
        load.do("leave", self.some())
        time.sleep(self.rng.uniform(0, 3))
        load.do("dial")

    def deaf(self):
        self.one().do("deaf", self.some())
        time.sleep(self.rng.uniform(0, 8))

    def half(self):
        self.one().do("half", self.some())
        time.sleep(self.rng.uniform(0, 8))

    def flood(self):
        self.one().do("flood", self.some(), self.rng.choice([100, 1000, 6000]))

    def strangers(self):
        """Connections that say nothing, nonsense, too much, or half a frame."""
        socks = []
        for _ in range(self.rng.randrange(10, 60)):
            s = socket.create_connection(weirtest_address(self.server.control), 10)
            s.setblocking(False)
            try:
                s.send(self.rng.choice([b"", b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x10\x00" + self.rng.randbytes(900),
                                        controlwire.frame("heartbeat", {"mono_ns": 1}), self.rng.randbytes(4096)]))
            except OSError:
                pass
            socks.append(s)
        time.sleep(self.rng.uniform(0, 2))
        for s in socks:
            s.close()

    def tokens(self):
        """One token, three takers: one is enrolled, two are refused; the gateway is retired again."""
        status, _, made = self.server.request("POST", "/api/v1/enrolment-tokens", {})
        assert status == 201, made
        ident, key = controlwire.token_key(made["token"])
        got = []
        for i in range(3):
            g = controlwire.Gateway(self.server.control, key, f"token:{ident}", name=f"taker-{i}")
            try:
                got.append(g.connect())
            except (AssertionError, controlwire.Closed):
                pass
            g.close()
        assert len(got) == 1, f"{len(got)} gateways enrolled with one token"
        weirtest.wait_until(lambda: self.server.request("DELETE", f"/api/v1/gateways/{got[0].name}")[0] == 204,
                            "the taker to be retired", PATIENCE)

    def moves(self):
        """Other numbers of pairs and SLA processes, twice and quickly: gateways move through one another."""
        for _ in range(2):
            self.write_conf(self.rng.randrange(1, 3), self.rng.randrange(1, 4))
            self.server.popen.send_signal(signal.SIGHUP)
            time.sleep(self.rng.uniform(0, 1))

    def write_conf(self, pairs, processes):
        with open(self.conf, "w", encoding="ascii") as f:
            f.write(f"[server]\npairs = {pairs}\nsla-processes = {processes}\n")

    def life(self):
        self.server.stop(self.rng.choice([signal.SIGTERM, signal.SIGKILL]))
        time.sleep(self.rng.uniform(0, 2))
        self.start()

    def one(self):
        return self.rng.choice(self.load)

    def some(self):
        return self.rng.randrange(1, GATEWAYS // 2)

    # quiet points

    def counters(self):
        """The sum over all streams; None where an SLA process did not answer in time (503): asked for again."""
        items, after = 0, ""
        while True:
            cursor = f"&cursor={urllib.parse.quote(after)}" if after else ""
            status, _, page = self.server.request("GET", "/api/v1/streams?limit=1000" + cursor)
            if status == 503:
                return None
            assert status == 200, f"{status} {page}"
            items += sum(s["counters"]["read"]["arrivals"] + s["counters"]["write"]["arrivals"] for s in page["items"])
            after = page.get("next")
            if not after:
                return items

    def count_right(self):
        """The server's sum moves behind the gateways' by what is on its way: one answer each."""
        low = sum(x.report()["ios"] for x in self.load)
        got = self.counters()
        high = sum(x.report()["ios"] for x in self.load)
        slack = GATEWAYS * 2 * 100
        return got is not None and low - slack <= got <= high

    def quiet(self):
        for load in self.load:
            load.do("heal")
            load.wait_up(patience=PATIENCE)
        weirtest.wait_until(lambda: self.server.get("/status")["gateways"] == GATEWAYS, f"{GATEWAYS} gateways to be admitted",
                            PATIENCE)
        weirtest.wait_until(self.count_right, "the server's counters to be those of the gateways", PATIENCE)
        assert self.server.alive(), self.server.output()[-4000:]
        now, age = (self.server.rss_kib(), self.server.descriptors()), time.monotonic() - self.born
        self.first_rss = self.first_rss or now[0]
        if self.base is None and age > LIFE * 0.4 and min(map(self.seen.count, (self.storm, self.moves))) > 1:
            self.base = now
        if self.base is None:
            grown = now[0] - self.first_rss
            assert grown <= MAX_WARMING_KIB, f"resident memory grew by {grown} KiB in the beginning of a life"
        if self.base is not None:
            weirtest.wait_until(lambda: self.server.rss_kib() <= self.base[0] + MAX_RSS_KIB,
                                f"memory to be given back: {now[0] - self.base[0]} KiB more in one life", PATIENCE)
            self.grown = max(self.grown, self.server.rss_kib() - self.base[0])
            weirtest.wait_until(lambda: self.server.descriptors() <= self.base[1] + MAX_DESCRIPTORS, "descriptors to be given back",
                                PATIENCE)
        return now

    def run(self):
        for load in self.load:
            load.do("dial")
        agreement = {"kind": "Agreement", "name": "surging", "appliesTo": {"host": "surge-*"}, "per": "stream", "limit": {"iops": 1000000}}
        self.server.put("/agreements/surging", agreement)
        self.quiet()
        troubles = [self.storm, self.leave, self.deaf, self.half, self.flood, self.strangers, self.tokens,
                    self.moves, self.moves]
        began = time.monotonic()
        while time.monotonic() - began < SECONDS:
            trouble = self.rng.choice(troubles)
            if time.monotonic() > self.next_life:
                trouble = self.life
                self.next_life = time.monotonic() + LIFE
            trouble()
            self.steps += 1
            self.seen.append(trouble)
            rss, fds = self.quiet()
            print(f"{time.monotonic() - began:7.0f} s  {trouble.__name__:10}  rss {rss} KiB  descriptors {fds}", flush=True)
        for load in self.load:
            load.close()


def weirtest_address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def main():
    print(f"soak of the monitor: {SECONDS:.0f} s, {GATEWAYS} gateways; again with SOAK_SEED={SEED}", flush=True)
    with weirtest.World() as w:
        soak = Soak(w, random.Random(SEED))
        soak.run()
    print(f"{soak.steps} troubles in {soak.lives} lives; memory grew by {soak.grown} KiB at most within one")
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
