# SPDX-License-Identifier: Apache-2.0
"""The part of bench/control.py on the real path: the demo's device-like store, two ways to it, two fio clients.

`db` asks for 500 IOPS of 8 KiB through one way, `batch` takes what it gets in 16 KiB at depth 192 through the other. Figures are fio's own.
What differs is what stands in the two ways and what it was told: nothing, a fixed limit on batch (weir-gateway's own, QEMU's throttle,
nbdkit's rate filter), or an agreement for db. The fixed limit leaves a seventh of the device idle, as an operator would.
"""
import json
import math
import os
import statistics
import sys

import weirtest

PLUGIN = os.path.join(weirtest.BUILD, "demo", "nbdkit-device-plugin.so")
SERVERS, SERVICE_US, PER_KIB_US = 8, 2000, 4
VICTIM_IOPS, VICTIM_SIZE, BULLY_SIZE = 500, 8192, 16384
OBJECTIVE_MS = 15
LIMIT = int((0.85 * SERVERS - VICTIM_IOPS * 2.032e-3) / 2.064e-3)
AGREEMENT = {"kind": "Agreement", "name": "gold", "appliesTo": {"volume": "db"}, "weight": 200, "reservation": {"iops": VICTIM_IOPS},
             "objectives": [{"percentile": 99, "latency": f"{OBJECTIVE_MS}ms", "whileIops": 1000}]}
WARM = 10


def gateways(w, store, server=None, limit=""):
    config = f"[listener l]\naddress = 127.0.0.1:0\ntarget = t\n[target t]\nuri = {store.uri}\n"
    return [w.gateway(config=config + (limit if n == 2 else ""), server=server, name=f"gw{n}").uri for n in (1, 2)]


def none(w, store):
    return gateways(w, store)


def static(w, store):
    return gateways(w, store, limit=f"[limit x]\niops = {LIMIT}\n")


def weir(w, store):
    config = w.path("server.conf")
    with open(config, "w", encoding="ascii") as f:
        f.write("[server]\nsla-processes = 1\n")
    server = w.server("--config", config)
    ways = gateways(w, store, server)
    weirtest.wait_until(lambda: len([g for g in server.items("/gateways") if g["state"] == "admitted"]) == 2, "both gateways")
    server.put("/agreements/gold", AGREEMENT)
    return ways


def qemu_way(w, store, volume, limit):
    port = weirtest.free_port()
    nodes = ["--blockdev", f"driver=nbd,node-name=n,server.type=inet,server.host=127.0.0.1,server.port={store.port},export={volume}"]
    if limit:
        nodes = ["--object", f"throttle-group,id=g,x-iops-total={limit}", *nodes,
                 "--blockdev", "driver=throttle,node-name=t,throttle-group=g,file=n"]
    weirtest.Process(w, "qemu-storage-daemon", [
        "qemu-storage-daemon", *nodes, "--nbd-server", f"addr.type=inet,addr.host=127.0.0.1,addr.port={port}",
        "--export", f"type=nbd,id=e,node-name={'t' if limit else 'n'},name={volume}"])
    weirtest.wait_until(lambda: weirtest.can_connect(port), "qemu-storage-daemon")
    return lambda export: f"nbd://127.0.0.1:{port}/{export}"


def qemu(w, store):
    return [qemu_way(w, store, "db", 0), qemu_way(w, store, "batch", LIMIT)]


def nbdkit(w, store):
    def way(volume, *filters):
        port = w.nbdkit("-t", "256", *filters[:1], "nbd", f"uri={store.uri}/{volume}", *filters[1:]).port
        return lambda export: f"nbd://127.0.0.1:{port}/{export}"
    return [way("db"), way("batch", "--filter=rate", f"rate={LIMIT * BULLY_SIZE * 8}", "burstiness=0.1")]


WAYS = [("alone", none), ("no control", none), ("weir-gateway, fixed limit", static), ("qemu throttle", qemu),
        ("nbdkit rate", nbdkit), ("Weir", weir)]


def fio(w, name, uri, seconds, *args):
    out = w.path(f"{name}.json")
    return weirtest.Process(w, f"fio-{name}", [
        "fio", f"--name={name}", "--ioengine=nbd", f"--uri={uri}", "--rw=randread", "--time_based", f"--ramp_time={WARM}",
        f"--runtime={seconds}", "--size=64m", "--norandommap", "--randrepeat=0", "--percentile_list=50:99", "--output-format=json",
        f"--output={out}", *args]), out


def figures(path):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    job = json.loads(text[text.index("{"):])["jobs"][0]
    if job.get("error"):
        raise SystemExit(f"fio: error {job['error']} in {path}")
    # On a machine that stands still for seconds nothing may be answered in time: no p99, and no throughput.
    p99 = job["read"]["clat_ns"].get("percentile", {}).get("99.000000")
    return {"iops": job["read"]["iops"], "p99": math.inf if p99 is None else p99 / 1e6}


def over(a, b):
    """a ÷ b; not a number, which meets no goal, when b is of a run in which nothing was answered."""
    return a / b if b > 0 and math.isfinite(b) else math.nan


def one(start, alone, seconds):
    with weirtest.World() as w:
        store = w.nbdkit("-t", "256", PLUGIN, f"parallel={SERVERS}", f"service={SERVICE_US}", f"per-kib={PER_KIB_US}", "jitter=50",
                         "export=db", "export=batch")
        ways = start(w, store)
        runs = [fio(w, "db", ways[0]("db"), seconds, f"--bs={VICTIM_SIZE}", "--iodepth=16", f"--rate_iops={VICTIM_IOPS}")]
        if not alone:
            runs.append(fio(w, "batch", ways[1]("batch"), seconds, f"--bs={BULLY_SIZE}", "--iodepth=192"))
        for p, _ in runs:
            weirtest.wait_until(lambda p=p: not p.alive(), "fio to end", WARM + seconds + 60, 0.2)
        return [figures(path) for _, path in runs]


def measure(quick, goals):
    """Lines of the report; goals are added."""
    weirtest.need("fio", PLUGIN)
    # fio 3.33 counts the I/Os but keeps no latencies (N is 0) where --rate_iops runs for less than its --ramp_time.
    rounds, seconds, found = 1 if quick else 2, WARM + 2, {}
    for r in range(rounds):
        for name, start in WAYS:
            print(f"real: round {r + 1} of {rounds}, {name}", file=sys.stderr, flush=True)
            found.setdefault(name, []).append(one(start, name == "alone", seconds))
    def busy(v):
        return v[0]["iops"] * 2.032e-3 + (v[1]["iops"] * 2.064e-3 if len(v) > 1 else 0)
    work = {n: statistics.median(map(busy, vs)) for n, vs in found.items()}
    p99 = {n: statistics.median(v[0]["p99"] for v in vs) for n, vs in found.items()}
    out = ["", "### On the real path", "", f"{rounds} round(s) of {seconds} s after {WARM} s; k = {SERVERS}; objective "
           f"{OBJECTIVE_MS} ms, fixed limits {LIMIT} IOPS. Client, gateways, storage and server share the processors.", "",
           "| In the way | p99 of db | ÷ alone | db IOPS | batch IOPS | throughput ÷ no control |", "|---|---|---|---|---|---|"]
    for n, vs in found.items():
        batch = f"{statistics.median(v[1]['iops'] for v in vs):.0f}" if len(vs[0]) > 1 else "-"
        db = f"{statistics.median(v[0]['iops'] for v in vs):.0f}"
        out.append(f"| {n} | {p99[n]:.1f} ms | {over(p99[n], p99['alone']):.2f} | {db} | {batch} | "
                   f"{over(work[n], work['no control']):.2f} |")
    goals.at_most("real path, k = 8: p99 ÷ alone", over(p99["Weir"], p99["alone"]), 1.2)
    goals.at_most("real path, k = 8: p99", p99["Weir"], OBJECTIVE_MS, " ms")
    goals.at_least("real path, k = 8: throughput ÷ no control", over(work["Weir"], work["no control"]), 0.97, "{:.3f}")
    return out
