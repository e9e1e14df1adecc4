# SPDX-License-Identifier: Apache-2.0
"""The part of bench/control.py that is simulated: worlds, and what is taken from their results.

A world is a scenario as `weir simulate` takes it. All service times are a half constant and a half exponential, of 1 ms in the
mean for 4 KiB (0.96 ms and 41 us a page of 4 KiB, so that 64 KiB take 1.6 ms). Throughput is the mean number of busy servers,
that is, work done whatever its sizes.
"""
import json
import os
import statistics
import subprocess
import tempfile

import weirtest

WEIR = os.path.join(weirtest.BUILD, "src/cli/weir")
SCHEMES = ["none", "static", "sleds", "parda", "mclock", "weir-no-server", "weir-no-surge", "weir"]
FLOOR = "oracle"  # no scheme: what nobody who keeps the target busy can better (src/sim/regulator.c)
BASE_US, PAGE_US = 960, 41


def cost_us(size):
    return BASE_US + PAGE_US * size / 4096


def target(k, **more):
    return {"name": "array", "servers": k, "read": f"{BASE_US}us", "write": f"{BASE_US}us", "bandwidth": f"{4096 * 10**6 // PAGE_US}B/s",
            "spread": "50%", **more}


def agreement(name, volume, ms=None, iops=None, reserve=None, weight=None, limit=None):
    a = {"kind": "Agreement", "name": name, "appliesTo": {"volume": volume}}
    if ms:
        a["objectives"] = [{"percentile": 99, "latency": f"{ms * 1000:g}us", "whileIops": iops}]
    if reserve:
        a["reservation"] = {"iops": reserve}
    if weight:
        a["weight"] = weight
    if limit:
        a["limit"] = {"iops": limit}
    return a


def scenario(loads, agreements, k=8, gateways=2, duration=40, warmup=10, targets=None, changes=(), **more):
    return [{"kind": "Scenario", "duration": f"{duration}s", "warmup": f"{warmup}s", "gateways": gateways,
             "targets": targets or [target(k)], "loads": loads, "changes": list(changes), **more}, *agreements]


def victim(rate, gateway=1, **more):
    return {"host": "db1", "volume": "db", "gateway": gateway, "rate": rate, "size": "4KiB", "writes": "30%", **more}


def bully(n, gateway, depth, size="64KiB", **more):
    return {"host": f"bulk{n}", "volume": f"bulk{n}", "gateway": gateway, "depth": depth, "size": size, **more}


def run(job):
    """One run: {"loads": ..., "targets": ...}. @job: (documents, scheme, seed)."""
    documents, scheme, seed = job
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        f.write("\n---\n".join(json.dumps(d) for d in documents))
        f.flush()
        r = subprocess.run([WEIR, "simulate", f.name, "-o", "json", "--scheme", scheme, "--seed", str(seed)],
                           capture_output=True, text=True)
    if r.returncode:
        raise RuntimeError(f"{scheme}, seed {seed}: {r.stderr.strip()}\n{documents}")
    return json.loads(r.stdout)


def load(result, volume):
    return next(x for x in result["loads"] if x["stream"].split("/")[1] == volume)


def busy(result):
    return result["targets"][0]["busyServers"]


def quartiles(values):
    v = sorted(values)
    return {"median": statistics.median(v), "low": v[0], "high": v[-1], "n": len(v)}


# ---- worlds ------------------------------------------------------------------------------------------------------------------

KS = [1, 2, 4, 8, 64]
SIZES = ["mixed", "64 KiB only"]


def bully_world(k, sizes, alone=False, gateways=2, **more):
    """A victim that asks for a fifth of the target; two who take what they get, one behind each gateway."""
    rate, depth = 200 * k, max(64, 4 * k)
    loads = [victim(rate)]
    if not alone and gateways == 2:
        loads += [bully(1, 1, depth, "4KiB" if sizes == "mixed" else "64KiB"), bully(2, 2, depth, "64KiB", writes="50%")]
    elif not alone:
        loads += [bully(n, n, max(4, 2 * depth // (gateways - 1)), "64KiB", writes="50%") for n in range(2, gateways + 1)]
    mean = cost_us(65536) if sizes != "mixed" else (cost_us(65536) + cost_us(4096)) / 2
    static = max(1, int((0.85 * k - rate * 1e-3) * 1e6 / mean / 2))
    return scenario(loads, [agreement("gold", "db", objective_ms(k), int(1.2 * rate), reserve=rate, weight=200)], k, gateways,
                    staticIops=static, **more)


def objective_ms(k):
    """What the victim is promised: at k = 8 the 5 ms of the published figures; where few servers make even an empty target slow, more."""
    return {1: 16, 2: 10, 4: 6}.get(k, 5)


def event_worlds():
    """{name: (documents, second of the event, step in seconds, alone documents)}."""
    gold = [agreement("gold", "db", 8, 2000, reserve=1600, weight=200)]
    pair = [victim(1600), bully(1, 1, 64, "4KiB"), bully(2, 2, 64, writes="50%")]
    static = {"staticIops": int((0.85 * 8 - 1.6) * 1e6 / cost_us(65536) / 2)}
    late = [victim(1600), bully(1, 1, 64, "4KiB", **{"from": "20s"}), bully(2, 2, 64, writes="50%", **{"from": "20s"})]
    moved = [victim(1600), *pair[1:], {**victim(1600), "host": "db2"}]
    moved[0]["rate"] = moved[3]["rate"] = 800

    def changed(what):
        return scenario(pair, gold, duration=60, changes=[{"at": "30s", **what}], **static)
    return {
        "bully starts": (scenario(late, gold, duration=50, **static), 20, 1),
        "target slows by 40 %": (changed({"target": "array", "speed": "60%"}), 30, 1),
        "half the servers lost": (changed({"target": "array", "servers": 4}), 30, 1),
        "demand moves": (scenario(pair, gold, duration=50, interval="100ms",
                                  changes=[{"at": "30s", "load": "db1/db", "gateway": 2}], **static), 30, 0.1),
    }


def outside(result, at, step, objective_us, steps):
    """Of the @steps after the event: how many lie outside the objective, and the time after which none of the next 3 does."""
    series = load(result, "db")["p99UsBySecond" if step == 1 else "p99UsByInterval"]
    first = int(at / step)
    after = series[first:first + steps]
    out = [v > objective_us or v == 0 for v in after]
    back = next((i for i in range(len(out) - 2) if not any(out[i:i + 3])), None)
    return sum(out), None if back is None else back * step


RESERVED = 3000


def reservation_world(kill=False):
    loads = [bully("r", 1, 32, "4KiB"), bully(1, 1, 64, "64KiB", writes="50%"), bully(2, 2, 128, "4KiB")]
    changes = [{"at": "25s", "state": "down"}, {"at": "45s", "state": "up"}] if kill else []
    return scenario(loads, [agreement("reserved", "bulkr", reserve=RESERVED), agreement("heavy", "bulk2", weight=1000)], 8, duration=60,
                    changes=changes, staticIops=int((0.85 * 8 - 3) * 1e6 / cost_us(65536) / 2))


def reservation_met(result):
    seconds = load(result, "bulkr")["iopsBySecond"][10:-1]
    return sum(v >= 0.99 * RESERVED for v in seconds) / len(seconds)


def fairness_world():
    """Weights 1, 2 and 4; the first behind both gateways, the second behind one, the third behind the other; sizes and kinds mixed."""
    loads = [bully("a", 1, 64, "4KiB"), {**bully("a", 2, 64, "4KiB"), "host": "bulka2"}, bully("b", 1, 64, "64KiB", writes="100%"),
             bully("c", 2, 128, "4KiB", large="30%", largeSize="64KiB", writes="50%")]
    return scenario(loads, [agreement(f"w{v}", f"bulk{v}", weight=w) for v, w in (("a", 200), ("b", 400), ("c", 800))], 8, duration=60)


def fairness(result):
    def served(volume):
        mine = [x for x in result["loads"] if x["stream"].endswith("/" + volume)]
        return sum(x["iops"] * BASE_US + x["bytesPerSecond"] / 4096 * PAGE_US for x in mine)
    per = [served(v) / w for v, w in (("bulka", 1), ("bulkb", 2), ("bulkc", 4))]
    return min(per) / max(per)


LIMIT = 2000


def limit_world():
    loads = [{**bully(n, n, 32, "4KiB", **{"from": "10s"}), "volume": "capped"} for n in (1, 2)]
    return scenario(loads, [agreement("cap", "capped", limit=LIMIT)], 32, duration=60)


def limit_errors(result):
    rows = [x["iopsBySecond"] for x in result["loads"]]
    total = [sum(v) for v in zip(*rows)]
    return {"steady": sum(total[20:60]) / 40 / LIMIT - 1, "first": total[10] / LIMIT - 1}


def hour_world(seconds):
    """Bullies on and off at lengths that never meet, and a target that stands still for 3 ms after each 64 MiB written."""
    loads = [victim(1600), bully(1, 1, 64, "64KiB", writes="50%", on="7s", off="5s"),
             bully(2, 2, 64, "4KiB", on="31s", off="17s", **{"from": "3s"})]
    return scenario(loads, [agreement("gold", "db", 8, 2000, reserve=1600, weight=200)], 8, duration=seconds,
                    targets=[target(8, pauseEvery="64MiB", pause="3ms")], staticIops=int((0.85 * 8 - 1.6) * 1e6 / cost_us(65536) / 2))


def wrong_k_world(k):
    """Each gateway begins with a window for 32 (its start where nothing is known)."""
    return bully_world(k, "64 KiB only", duration=80)


def wrong_k(result):
    """p99 of the victim from 10 s to 20 s over that from 60 s to 80 s."""
    p = load(result, "db")["p99UsBySecond"]
    return statistics.mean(p[10:20]) / statistics.mean(p[60:80])
