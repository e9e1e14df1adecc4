#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""How exactly a limit is kept: weir-gateway beside nbdkit's rate filter and QEMU's throttle, in interleaved rounds.

Every limiter stands between the same client (rawnbd.py; for the 99th percentile bench/nbdload)
and an nbdkit memory server of its own (nbdkit's filter sits in that server) and is set to
2,000 IOPS or to 50 MiB/s. The client counts answers by its own clock, from its first request on, after a second of idleness.
Figures are medians over the rounds; only ratios carry over to other machines.

    bench/limits.py [ROUNDS] [SECONDS]        (default: 5 rounds of 4 s; binaries from $WEIR_BUILD)
"""
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests/lib"))

import rawnbd  # noqa: E402
import weirtest  # noqa: E402

IOPS, BYTES = 2000, 50 << 20
SMALL, LARGE = 4096, 65536


def closed_loop(address, size, depth, seconds):
    """Answers' times since the first request."""
    with rawnbd.Host(address) as host:
        sent, cookie, at = set(), 0, []
        begin = time.monotonic()

        def ask():
            nonlocal cookie
            cookie += 1
            sent.add(cookie)
            host.send(rawnbd.READ, cookie, cookie * size % (32 << 20), size)

        for _ in range(depth):
            ask()
        while sent:
            got = host.reply(size)[0]
            now = time.monotonic()
            at.append(now - begin)
            sent.remove(got)
            if now - begin < seconds:
                ask()
        host.send(rawnbd.DISC, 0)
    return at


def measure(address, size, depth, seconds, limit):
    """Error of the steady rate, first second and first 100 ms, as ratios to what the limit allows."""
    time.sleep(1)
    at = closed_loop(address, size, depth, seconds)
    units = limit / size if size == LARGE else limit
    count = lambda a, b: sum(a <= t < b for t in at)  # noqa: E731
    return {"steady": count(1, seconds) / (units * (seconds - 1)) - 1, "first": count(0, 1) / units - 1,
            "tenth": count(0, 0.1) / (units * 0.1)}


def p99_at_depth_one(address, seconds):
    """By the client in C, whose own delays are small; past the credit of the idle second."""
    time.sleep(1)
    r = subprocess.run([os.path.join(weirtest.BUILD, "bench/nbdload"), "-d", "1", "-b", str(SMALL), "-r", "100", "-t", str(seconds),
                        "-w", str(seconds / 4), address], capture_output=True, text=True, timeout=120, check=True)
    return json.loads(r.stdout)["p99_us"] / 1000


def paced_p99(address, seconds):
    """No limiter at all: a client that asks 2,000 times a second by its own timer, straight at the storage. From answer to answer,
    as the client of a limiter sees it; so what the machine's timers and wake-ups make of a perfect limit."""
    ctypes.CDLL(None).prctl(29, 1000, 0, 0, 0)  # PR_SET_TIMERSLACK, of this thread: 1 us
    gaps, last = [], None
    with rawnbd.Host(address) as host:
        begin = turn = time.monotonic()
        while (now := time.monotonic()) < begin + seconds:
            turn = max(turn + 1 / IOPS, now - 0.01)  # the gateway's credit: 10 ms
            if turn > now:
                time.sleep(turn - now)
            host.send(rawnbd.READ, 1, 0, SMALL)
            host.reply(SMALL)
            now = time.monotonic()
            if last and now > begin + seconds / 4:
                gaps.append(now - last)
            last = now
        host.send(rawnbd.DISC, 0)
    return sorted(gaps)[int(len(gaps) * 0.99)] * 1000


def weir(w, iops):
    storage = w.nbdkit("memory", "64M")
    limit = f"iops = {IOPS}" if iops else f"bandwidth = {BYTES}"
    return w.gateway(config=f"[listener l]\naddress = 127.0.0.1:0\ntarget = t\n[target t]\nuri = {storage.uri}\n"
                            f"[limit x]\n{limit}\n").address


def qemu(w, iops):
    storage, port = w.nbdkit("memory", "64M"), weirtest.free_port()
    limit = f"x-iops-total={IOPS}" if iops else f"x-bps-total={BYTES}"
    weirtest.Process(w, "qemu-storage-daemon", [
        "qemu-storage-daemon", "--object", f"throttle-group,id=g,{limit}",
        "--blockdev", f"driver=nbd,node-name=n,server.type=inet,server.host=127.0.0.1,server.port={storage.port}",
        "--blockdev", "driver=throttle,node-name=t,throttle-group=g,file=n",
        "--nbd-server", f"addr.type=inet,addr.host=127.0.0.1,addr.port={port}",
        "--export", "type=nbd,id=e,node-name=t,name="])
    weirtest.wait_until(lambda: weirtest.can_connect(port), "qemu-storage-daemon")
    return f"127.0.0.1:{port}"


def nbdkit_rate(*extra):
    def start(w, _):
        return "127.0.0.1:%d" % w.nbdkit("--filter=rate", "memory", "64M", f"rate={BYTES * 8}", *extra).port
    return start


LIMITERS = [  # name, start, can hold IOPS
    ("weir-gateway", weir, True),
    ("qemu throttle", qemu, True),
    ("nbdkit rate, default", nbdkit_rate(), False),
    ("nbdkit rate, burstiness 0.1", nbdkit_rate("burstiness=0.1"), False),
]


def one_round(seconds, results):
    with weirtest.World() as w:
        storage = w.nbdkit("memory", "64M")
        results.setdefault(("", True, "p99"), []).append(paced_p99(f"127.0.0.1:{storage.port}", seconds))
    for name, start, holds_iops in LIMITERS:
        for iops in (True, False):
            if iops and not holds_iops:
                continue
            with weirtest.World() as w:
                address = start(w, iops)
                size, depth, limit = (SMALL, 16, IOPS) if iops else (LARGE, 8, BYTES)
                for key, value in measure(address, size, depth, seconds, limit).items():
                    results.setdefault((name, iops, key), []).append(value)
            if iops:
                with weirtest.World() as w:
                    results.setdefault((name, iops, "p99"), []).append(p99_at_depth_one(start(w, True), seconds))


def measure_all(rounds, seconds):
    """{(limiter, whether IOPS, figure): [one value a round]}."""
    results = {}
    for i in range(rounds):
        print(f"limits: round {i + 1} of {rounds}, load average {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        one_round(seconds, results)
    return results


def table(results):
    out = ["| Limiter | limit | steady error | first second above limit | first 100 ms | p99 at depth 1 (ideal 0.50 ms) |",
           "|---|---|---|---|---|---|"]
    for name, _, holds_iops in LIMITERS:
        for iops in (True, False):
            if iops and not holds_iops:
                continue
            m = {key: statistics.median(v) for (n, i, key), v in results.items() if n == name and i == iops}
            p99 = f"{m['p99']:.2f} ms" if "p99" in m else "-"
            out.append(f"| {name} | {'2,000 IOPS' if iops else '50 MiB/s'} | {100 * m['steady']:+.2f} % | {100 * m['first']:+.1f} % | "
                       f"{m['tenth']:.2f}x | {p99} |")
    floor = statistics.median(results[("", True, "p99")])
    out.append(f"| none: the client's own timer, no gateway | 2,000 IOPS | - | - | - | {floor:.2f} ms |")
    return out


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 4
    print("\n".join(table(measure_all(rounds, seconds))), flush=True)


if __name__ == "__main__":
    main()
