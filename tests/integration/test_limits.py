# SPDX-License-Identifier: Apache-2.0
"""Goal: limits of gateway.conf hold on the real path: every kind, every scope, from the first second on, through live changes, with
bursts whose credit is seen, and without harm to a byte.
Method: nbdkit behind the gateway; hosts by hand that keep a fixed number of requests under way and note when each is answered.
Nothing here asks that the machine be quick. That nothing passes above a limit is judged exactly, at every single answer. That a
limit is also reached is asked of one half second: the hosts go on until they had one with nine tenths of it, so a machine that
is busy with other things takes longer, and a limit that is held too low is never reached. Random data comes from a printed seed."""
import bisect
import collections
import hashlib
import os
import random
import re
import signal
import struct
import time
import unittest

import loads
import rawnbd
import weirtest
from rawnbd import READ, WRITE
from weirtest import wait_until

KIB, MIB = 1 << 10, 1 << 20
BLOCK = 4 * KIB
WINDOW, FULL = 0.5, 0.9  # where a limit is looked for, in seconds, and the part of it that is to be found there


class Load(loads.Load):
    """Keeps `depth` requests of `size` bytes under way until told to stop, each answered once; notes when each was."""

    def __init__(self, gateway, kind=READ, size=BLOCK, depth=8, volume=b"", source=None, area=16 * MIB):
        super().__init__(gateway, volume, source)
        self.kind, self.size, self.depth, self.area = kind, size, depth, area
        self.payload = bytes(size) if kind == WRITE else b""
        self.at, self.cookie = [], 0

    def ask(self):
        self.cookie += 1
        self.asked.add(self.cookie)
        offset = self.cookie * self.size % self.area
        self.host.send(self.kind, self.cookie, offset, self.size, payload=self.payload)

    def play(self):
        for _ in range(self.depth):
            self.ask()
        while self.asked:
            cookie, error, _ = self.host.reply(self.size if self.kind == READ else 0)
            self.at.append(time.monotonic())
            if error:
                raise AssertionError(f"request {cookie} failed with {error}")
            self.asked.remove(cookie)  # KeyError: answered twice, or never asked
            if not self.ending.is_set():
                self.ask()

    def count(self, begin, end):
        return bisect.bisect_left(self.at, end) - bisect.bisect_left(self.at, begin)


class Limits(unittest.TestCase):
    def setUp(self):
        self.world = weirtest.World()
        self.world.__enter__()
        self.addCleanup(lambda: self.world.__exit__(None, None, None))
        self.target = self.world.nbdkit("memory", "64M")

    def config(self, limits, gateway="", volumes=""):
        text = f"[gateway]\n{gateway}\n[listener l]\naddress = 127.0.0.1:0\ntarget = t\n[target t]\nuri = {self.target.uri}\n{volumes}\n"
        for name, keys in limits.items():
            text += f"[limit {name}]\n" + keys.replace("; ", "\n") + "\n"
        return text

    def gateway(self, limits, **kw):
        return self.world.gateway(config=self.config(limits, **kw))

    def begin(self, *loads):
        """All at work; the time from which on they were."""
        begin = time.monotonic()
        for load in loads:
            load.start()
        return begin

    def reach(self, begin, *wanted):
        """Wait until in one and the same half second, not the first since `begin`, each of `wanted`, (loads, answers a second), had
        so many or more. Credit and debt that a window could bring along are a fiftieth of it."""
        def counted(end):
            return [sum(load.count(end - WINDOW, end) for load in loads) / WINDOW for loads, _ in wanted]

        def reached():
            if any(load.failed for loads, _ in wanted for load in loads):
                return True  # told when it ends
            now = time.monotonic()
            return now > begin + 2 * WINDOW and all(got >= rate for got, (_, rate) in zip(counted(now), wanted))
        try:
            wait_until(reached, "half a second at full rate", patience=2 * weirtest.PATIENCE)
        except AssertionError as e:
            ends = [begin + WINDOW * n for n in range(2, int((time.monotonic() - begin) / WINDOW))]
            best = max(map(counted, ends), default=None)
            raise AssertionError(f"{e}: {[rate for _, rate in wanted]}/s, the best {best}/s") from e

    def finish(self, *loads):
        for load in loads:
            load.ending.set()
        for load in loads:
            load.finish()

    def assert_never_above(self, loads, begin, limit, extra=0):
        """An answer comes after its request went, and none was sent before `begin`: so by any answer no more can have come than
        the rate times the time since, plus 10 ms of idle credit (or one I/O), plus the one I/O that goes into debt."""
        for i, t in enumerate(sorted(t for load in loads for t in load.at), 1):
            bound = limit * (t - begin) + max(0.010 * limit, 1) + 1 + extra
            if i > bound:
                self.fail(f"answer {i} came {t - begin:.6f} s after the start; at {limit}/s at most {bound:.1f} may")

    def check_limits(self, everybody, *limits):
        """Of `limits`, (what, loads, rate): all of them are reached, and none is ever passed. Returns the time since which."""
        begin = self.begin(*everybody)
        self.reach(begin, *((loads, FULL * limit) for _, loads, limit in limits))
        took = time.monotonic() - begin
        self.finish(*everybody)
        for what, loads, limit in limits:
            got = sum(load.count(begin, begin + took) for load in loads) / took
            print(f"  {what}: {got:.1f}/s of {limit}/s, {100 * (got / limit - 1):+.2f} %", flush=True)
            self.assert_never_above(loads, begin, limit)
        return begin

    def assert_never_held(self, gateway, key_end, *ops):
        counters = self.stream(gateway, key_end)["counters"]
        for op in ops:
            self.assertGreater(counters[op]["completions"], 0)
            self.assertEqual(counters[op]["held"], 0, f"{op} of {key_end}")

    def stream(self, gateway, key_end):
        return next((s for s in gateway.local(get="streams")["streams"] if s["key"].endswith(key_end)), None)


class Kinds(Limits):
    def check(self, key, value, per_io, limited):
        g = self.gateway({"x": f"{key} = {value}"})
        read, write = Load(g, READ), Load(g, WRITE)
        loads = [{"r": read, "w": write}[x] for x in limited]
        self.check_limits([read, write], (f"{key} = {value}", loads, per_io))
        if len(limited) == 1:
            self.assert_never_held(g, "/default", "write" if limited == "r" else "read")
        g.stop()

    def test_iops_of_reads_and_writes_together_hold(self):
        self.check("iops", "800", 800, "rw")

    def test_iops_of_reads_hold_and_leave_writes_alone(self):
        self.check("iops-read", "400", 400, "r")

    def test_iops_of_writes_hold_and_leave_reads_alone(self):
        self.check("iops-write", "400", 400, "w")

    def test_bytes_of_reads_and_writes_together_hold(self):
        self.check("bandwidth", "4MiB/s", 1024, "rw")

    def test_bytes_of_reads_hold_and_leave_writes_alone(self):
        self.check("bandwidth-read", "2MiB/s", 512, "r")

    def test_bytes_of_writes_hold_and_leave_reads_alone(self):
        self.check("bandwidth-write", "2MiB/s", 512, "w")

    def test_bytes_count_whatever_the_size_of_the_ios(self):
        g = self.gateway({"x": "bandwidth = 32MiB/s"})
        small, large = Load(g, READ, 8 * KIB, 16), Load(g, WRITE, 256 * KIB, 2)
        begin = self.begin(small, large)

        def moved(begin, end):
            return sum(load.count(begin, end) * load.size for load in (small, large))
        wait_until(lambda: moved(time.monotonic() - WINDOW, time.monotonic()) >= FULL * 32 * MIB * WINDOW and len(small.at) > 20,
                   "half a second at full rate", patience=2 * weirtest.PATIENCE)
        print(f"  32 MiB/s in 8 KiB and 256 KiB: {moved(begin, time.monotonic()) / (time.monotonic() - begin) / MIB:.2f} MiB/s", flush=True)
        self.finish(small, large)
        total = 0
        for t, size in sorted((t, load.size) for load in (small, large) for t in load.at):
            total += size
            self.assertLessEqual(total, 32 * MIB * (t - begin + 0.010) + 256 * KIB)

    def test_the_tightest_of_several_limits_holds(self):
        g = self.gateway({"wide": "iops = 5000", "tight": "iops = 300", "bytes": "bandwidth = 100MiB/s"})
        load = Load(g)
        self.check_limits([load], ("300 under 5,000 and 100 MiB/s", [load], 300))

    def test_one_iops_is_one_io_a_second(self):
        g = self.gateway({"x": "iops = 1"})
        time.sleep(1.1)  # idle credit is one I/O at most
        load = Load(g, depth=4)
        begin = self.begin(load)
        wait_until(lambda: len(load.at) >= 2, "two answers")
        self.finish(load)  # the four that are under way come too, one a second
        self.assert_never_above([load], begin, 1)
        self.assertGreaterEqual(len(load.at), 5)

    def test_the_first_second_keeps_to_the_limit(self):
        for idle in (0, 1.0):
            g = self.gateway({"x": "iops = 2000"})
            time.sleep(idle)
            load = Load(g, depth=32)
            begin = self.begin(load)
            self.reach(begin, ([load], FULL * 2000))
            self.finish(load)
            second, tenth = load.count(begin, begin + 1), load.count(begin, begin + 0.1)
            print(f"  first second of 2,000 IOPS: {second} ({100 * (second / 2000 - 1):+.2f} %), first 100 ms: {tenth}", flush=True)
            self.assertLessEqual(second, 2000 * 1.01 + 1)
            self.assertLessEqual(tenth, 200 + 20 + 1)
            self.assert_never_above([load], begin, 2000)
            g.stop()


class Scopes(Limits):
    VOLUMES = ("[volume a]\ntarget = t\ntenant = acme\n[volume b]\ntarget = t\ntenant = acme\n"
               "[volume c]\ntarget = t\ntenant = other\n")

    def loads(self, g, *who):
        return [Load(g, volume=volume.encode(), source=f"127.0.0.{host}") for host, volume in who]

    def test_a_limit_per_stream_is_each_streams_own(self):
        g = self.gateway({"x": "iops = 300; per = stream"}, volumes=self.VOLUMES)
        loads = self.loads(g, (2, "a"), (3, "a"), (2, "b"))
        self.check_limits(loads, *((f"stream {i}", [load], 300) for i, load in enumerate(loads)))

    def test_a_limit_of_a_volume_is_shared_fairly_by_its_hosts(self):
        g = self.gateway({"x": "iops = 600; volume = a"}, volumes=self.VOLUMES)
        loads = self.loads(g, (2, "a"), (3, "a"), (4, "b"))
        loads[0].depth = 32
        begin = self.begin(*loads)
        self.reach(begin, (loads[:2], FULL * 600), (loads[:1], 0.3 * 600), (loads[1:2], 0.3 * 600))
        self.finish(*loads)
        self.assert_never_above(loads[:2], begin, 600)
        self.assert_never_held(g, ".4/b", "read")

    def test_a_limit_of_a_tenant_holds_all_its_volumes_together(self):
        g = self.gateway({"x": "iops = 600; tenant = acme"}, volumes=self.VOLUMES)
        loads = self.loads(g, (2, "a"), (3, "b"), (2, "c"))
        self.check_limits(loads, ("tenant acme", loads[:2], 600))
        self.assert_never_held(g, ".2/c", "read")

    def test_a_limit_of_a_target_holds_everybody(self):
        g = self.gateway({"x": "iops = 600; target = t"}, volumes=self.VOLUMES)
        loads = self.loads(g, (2, "a"), (3, "b"), (4, "c"))
        self.check_limits(loads, ("target t", loads, 600))

    def test_stream_volume_and_tenant_limits_hold_at_once(self):
        g = self.gateway({"s": "iops = 200; host = 127.0.0.2", "v": "iops = 500; volume = a", "t": "iops = 700; tenant = acme"},
                         volumes=self.VOLUMES)
        loads = self.loads(g, (2, "a"), (3, "a"), (4, "b"))
        begin = self.begin(*loads)
        self.reach(begin, (loads, FULL * 700), *(([load], 60) for load in loads))  # nobody starves
        self.finish(*loads)
        for some, limit in ((loads, 700), (loads[:2], 500), (loads[:1], 200)):
            self.assert_never_above(some, begin, limit)

    def test_hosts_beyond_max_streams_share_one_stream(self):
        g = self.gateway({"x": "iops = 300; per = stream"}, gateway="max-streams = 2", volumes=self.VOLUMES)
        loads = self.loads(g, (2, "a"), (3, "a"), (4, "a"), (5, "b"))
        keys = [s["key"] for s in g.local(get="streams")["streams"]]
        self.assertEqual(collections.Counter(keys), {"127.0.0.2/a": 1, "127.0.0.3/a": 1, "*/*": 1})
        self.check_limits(loads, ("a stream of its own", loads[:1], 300), ("the shared stream", loads[2:], 300))

    def test_a_host_that_reconnects_has_no_new_credit(self):
        g = self.gateway({"x": "iops = 100; per = stream"}, volumes=self.VOLUMES)
        begin, answered = time.monotonic(), 0
        while time.monotonic() - begin < 2:
            load = Load(g, depth=4, volume=b"a")
            load.start()
            time.sleep(0.1)
            load.finish()
            answered += len(load.at)
        took = time.monotonic() - begin
        print(f"  100 IOPS over {took:.2f} s of reconnecting: {answered}", flush=True)
        self.assertLessEqual(answered, 100 * took + 3)


class Live(Limits):
    def reload(self, g, limits, **kw):
        """Write the file anew, hang up, wait until it is in force."""
        path = g.argv[g.argv.index("--config") + 1]
        before = len(re.findall(r"SIGHUP: \d+ limits", g.output()))
        with open(path + ".new", "w") as f:
            f.write(self.config(limits, **kw))
        os.rename(path + ".new", path)
        g.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: len(re.findall(r"SIGHUP: \d+ limits", g.output())) > before, "the reload", step=0.002)

    def test_a_limit_changed_a_hundred_times_under_load_loses_and_changes_nothing(self):
        seed = int(os.environ.get("WEIR_SEED", random.SystemRandom().getrandbits(32)))
        print(f"  seed: WEIR_SEED={seed}", flush=True)
        rng = random.Random(seed)
        g = self.gateway({"x": "iops = 1000"})
        writers = [Verified(g, seed + i, i) for i in range(4)]
        for w in writers:
            w.start()
        for _ in range(100):
            limits = {}
            if rng.random() < 0.9:
                rate = rng.choice([f"iops = {rng.randint(200, 20000)}", f"bandwidth = {rng.randint(1, 100)}MiB/s",
                                   f"iops-write = {rng.randint(100, 5000)}; iops-read = {rng.randint(100, 5000)}",
                                   f"iops = 500; burst-iops = {rng.randint(600, 9000)}; burst-for = {rng.randint(1, 60)}s"])
                limits["x"] = rate + rng.choice(["", "; per = stream", "; host = 127.*", "; volume = default"])
            if rng.random() < 0.3:
                limits[f"y{rng.randint(0, 3)}"] = f"iops = {rng.randint(300, 3000)}"
            self.reload(g, limits)
            time.sleep(rng.random() * 0.03)
        self.reload(g, {})
        wait_until(lambda: any(w.failed for w in writers) or sum(w.answered for w in writers) > 500, "500 answers")
        for w in writers:
            w.finish()
        for w in writers:
            w.verify_at(self.target)
        total = sum(w.answered for w in writers)
        print(f"  {total} I/Os answered once each, through 101 changes", flush=True)
        wait_until(lambda: g.local(get="status")["status"]["connections"]["active"] == 0, "no connection left")
        for s in g.local(get="streams")["streams"]:
            self.assertEqual(s["heldNow"], 0)
            for op, c in s["counters"].items():
                self.assertEqual(c["arrivals"], c["completions"], op)
                self.assertEqual(c["errors"], 0, op)
        counted = sum(s["counters"][op]["completions"] for s in g.local(get="streams")["streams"] for op in ("read", "write"))
        self.assertEqual(counted, total)

    def test_a_raised_limit_is_in_force_at_once_and_a_lowered_one_too(self):
        g = self.gateway({"x": "iops = 100"})
        load = Load(g, depth=16)
        load.start()
        marks = []
        for rate in (100, 1500, 200):
            self.reload(g, {"x": f"iops = {rate}"})
            begin = time.monotonic()
            self.reach(begin, ([load], FULL * rate))
            marks.append((rate, begin, time.monotonic()))
        load.finish()
        for rate, begin, end in marks:
            got = load.count(begin, end)
            print(f"  changed to {rate}: {got / (end - begin):.1f}/s", flush=True)
            # What went before and was still under way when the new rate came into force, and idle credit.
            self.assertLessEqual(got, rate * (end - begin) + load.depth + max(0.010 * rate, 1) + 1)


class Verified(Load):
    """Writes random blocks in its own area and reads them back; a block is asked for by one request at a time."""

    def __init__(self, gateway, seed, number):
        super().__init__(gateway, depth=16)
        self.rng, self.base, self.blocks = random.Random(seed), number * 4 * MIB, 256
        self.content, self.doing, self.answered, self.seed = {}, {}, 0, seed

    def data(self, block, generation):
        return hashlib.sha256(struct.pack(">QQQ", self.seed, block, generation)).digest() * (BLOCK // 32)

    def ask(self):
        busy = {block for _, block, _ in self.doing.values()}
        block = self.rng.choice([b for b in range(self.blocks) if b not in busy])
        self.cookie += 1
        self.asked.add(self.cookie)
        if block in self.content and self.rng.random() < 0.5:
            self.doing[self.cookie] = (READ, block, self.content[block])
            self.host.send(READ, self.cookie, self.base + block * BLOCK, BLOCK)
        else:
            generation = self.content.get(block, 0) + 1
            self.doing[self.cookie] = (WRITE, block, generation)
            self.host.send(WRITE, self.cookie, self.base + block * BLOCK, BLOCK, payload=self.data(block, generation))

    def play(self):
        for _ in range(self.depth):
            self.ask()
        while self.asked:
            magic, error, cookie = struct.unpack(">IIQ", rawnbd.receive(self.host.sock, 16))
            kind, block, generation = self.doing.pop(cookie)  # KeyError: answered twice, or never asked
            self.asked.remove(cookie)
            if magic != rawnbd.SIMPLE_MAGIC or error:
                raise AssertionError(f"request {cookie}: magic {magic:x}, error {error}")
            if kind == READ and rawnbd.receive(self.host.sock, BLOCK) != self.data(block, generation):
                raise AssertionError(f"block {block} does not hold generation {generation}")
            if kind == WRITE:
                self.content[block] = generation
            self.answered += 1
            if not self.ending.is_set():
                self.ask()

    def verify_at(self, target):
        with rawnbd.Host(f"127.0.0.1:{target.port}") as direct:
            for block, generation in self.content.items():
                direct.send(READ, 1, self.base + block * BLOCK, BLOCK)
                if direct.reply(BLOCK)[2] != self.data(block, generation):
                    raise AssertionError(f"on the target block {block} does not hold generation {generation}")
            direct.send(rawnbd.DISC, 0)


class Bursts(Limits):
    def credit(self, g):
        s = self.stream(g, "/default")
        return s["burstCreditPercent"] if s else None

    def test_a_burst_lasts_as_long_as_its_credit_and_the_credit_is_seen(self):
        g = self.gateway({"x": "iops = 200; burst-iops = 1000; burst-for = 2s"})
        load = Load(g, depth=16)
        self.assertEqual(self.credit(g), 100)
        begin, seen = self.begin(load), []

        def look():
            """What is spent of 1,600 I/Os is what passed less 200 a second, never more than passed, whatever the machine does."""
            s, now = self.stream(g, "/default"), time.monotonic()
            done, credit = s["counters"]["read"]["completions"], s["burstCreditPercent"]
            seen.append((now - begin, credit))
            self.assertLessEqual(credit, min(100, 100 - (done - 200 * (now - begin + 0.010)) / 16) + 2, f"{done} passed, {seen}")
            self.assertGreaterEqual(credit, 100 - (done + load.depth) / 16 - 2, f"{done} passed, {seen}")
            return credit < 5
        wait_until(look, "the credit to be spent", patience=2 * weirtest.PATIENCE)
        spent = time.monotonic()
        burst = max(load.count(begin + t - 0.25, begin + t) for t, _ in seen) * 4
        self.reach(spent, ([load], FULL * 200))
        end = time.monotonic()
        load.finish()
        print(f"  bursting {burst:.0f}/s of 1000/s, after it {load.count(spent, end) / (end - spent):.0f}/s of 200/s; credit seen: "
              f"{[credit for _, credit in seen[::8]]}", flush=True)
        self.assert_never_above([load], begin, 1000)
        self.assert_never_above([load], begin, 200, extra=(1000 - 200) * 2)
        self.assertGreaterEqual(burst, 500)
        # 200 a second refill 1,600 units in eight seconds.
        wait_until(lambda: self.credit(g) > 20, "credit to refill while idle")
        limit = self.stream(g, "/default")["limits"][0]
        self.assertEqual((limit["kind"], limit["perSecond"], limit["burstPerSecond"]), ("iops", 200, 1000))
        self.assertGreater(limit["fullInMs"], 0)

    def test_what_was_held_says_by_whom(self):
        g = self.gateway({"slow": "bandwidth-write = 8KiB/s"})
        load = Load(g, WRITE, depth=4)
        load.start()
        s = wait_until(lambda: (lambda s: s if s and s["heldNow"] >= 3 else None)(self.stream(g, "/default")), "held writes")
        self.assertEqual((s["heldBy"], s["heldKind"]), ("file/slow", "bandwidth-write"))
        load.ending.set()
        wait_until(lambda: (self.stream(g, "/default")["oldestHeldUs"] or 0) > 0, "an age of what is held")
        load.finish()
        s = self.stream(g, "/default")
        self.assertEqual((s["heldNow"], s["heldBy"]), (0, None))
        self.assertGreaterEqual(s["counters"]["write"]["held"], 3)
        control = next(c for c in g.local(get="controls")["controls"] if c["id"] == "file/slow")
        self.assertGreaterEqual(control["heldEver"], 3)

    def test_max_hold_lets_go_what_a_limit_would_hold_for_hours(self):
        g = self.gateway({"x": "bandwidth = 1KiB/s"}, gateway="max-hold = 300ms")
        load = Load(g, READ, 64 * KIB, depth=4)
        load.start()
        wait_until(lambda: load.failed or len(load.at) >= 8, "eight answers")
        load.finish()
        self.assertGreaterEqual(self.stream(g, "/default")["maxHoldHits"], 7)


del Limits  # only its heirs are tests
if __name__ == "__main__":
    weirtest.main()
