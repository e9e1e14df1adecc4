#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""weir-gateway beside its rivals on the data path: interleaved rounds, medians, ratios to no proxy at all.

One RAM-backed server (bench/ramnbd) and one raw client (bench/nbdload) of our own; between them nothing, or one of: weir-gateway with
metering on and a limit in force that never bites, haproxy (TCP, one thread) as it comes and with 256 KiB buffers, nbdkit's nbd plugin with
its rate filter, QEMU's storage daemon with a throttle. All stand ready all the time; only one is loaded at once. In each round every row
is run through every one in turn, so that a slow moment of the machine meets all alike.

    bench/gateway.py [--rounds N] [--seconds S] [--rows REGEX] [--proxies REGEX] [--no-limits] [--json FILE] [--write FILE]

Binaries come from $WEIR_BUILD. A proxy's CPU is its process clock over a run (warm-up included) by all answers of that run.
"""
import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests/lib"))
sys.path.insert(0, os.path.join(ROOT, "bench"))

import limits  # noqa: E402
import weirtest  # noqa: E402

LOAD, RAM = (os.path.join(weirtest.BUILD, "bench", name) for name in ("nbdload", "ramnbd"))
KIB, MIB = 1024, 1024 * 1024
NEVER = 10 ** 9  # a limit that no run here comes near, in I/Os and in bytes (times 1000) a second

SHAPES = [(4 * KIB, read, depth) for read in (True, False) for depth in (1, 16, 64)]
SHAPES += [(128 * KIB, read, 8) for read in (True, False)] + [(MIB, read, 4) for read in (True, False)]


class Row:
    def __init__(self, size, read, depth, connections):
        self.size, self.read, self.depth, self.connections = size, read, depth, connections
        unit = f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"
        self.name = f"{unit} {'read' if read else 'write'}, depth {depth}" + (f", {connections} connections" if connections > 1 else "")


ROWS = [Row(*shape, connections) for connections in (1, 8) for shape in SHAPES]


# Each starts a proxy before the storage at `port` and returns (process, "host:port").

def weir(w, port):
    gateway = w.gateway(config=f"[listener l]\naddress = 127.0.0.1:0\ntarget = t\n[target t]\nuri = nbd://127.0.0.1:{port}\n"
                               f"[limit never]\niops = {NEVER}\nbandwidth = {NEVER * 1000}\n")
    return gateway, gateway.address


def haproxy(tuned):
    def start(w, port):
        mine, path = weirtest.free_port(), w.path(f"haproxy-{tuned}.cfg")
        with open(path, "w") as f:
            f.write("global\n  nbthread 1\n" + ("  tune.bufsize 262144\n" if tuned else "") +
                    "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
                    f"listen nbd\n  bind 127.0.0.1:{mine}\n  server ram 127.0.0.1:{port}\n")
        return listening(w, mine, "haproxy", ["haproxy", "-db", "-f", path])
    return start


def nbdkit(w, port):
    mine = weirtest.free_port()
    return listening(w, mine, "nbdkit", ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(mine), "--filter=rate", "nbd",
                                         f"uri=nbd://127.0.0.1:{port}", f"rate={NEVER * 1000}"])


def qemu(w, port):
    mine = weirtest.free_port()
    return listening(w, mine, "qemu-storage-daemon", [
        "qemu-storage-daemon", "--object", f"throttle-group,id=g,x-iops-total={NEVER},x-bps-total={NEVER * 1000}",
        "--blockdev", f"driver=nbd,node-name=n,server.type=inet,server.host=127.0.0.1,server.port={port}",
        "--blockdev", "driver=throttle,node-name=t,throttle-group=g,file=n",
        "--nbd-server", f"addr.type=inet,addr.host=127.0.0.1,addr.port={mine}",
        "--export", "type=nbd,id=e,node-name=t,name=,writable=on"])


def listening(w, port, name, argv):
    process = weirtest.Process(w, name, argv)

    def up():
        if not process.alive():
            raise SystemExit(f"{name} ended at once:\n{process.output()}")
        return weirtest.can_connect(port)
    weirtest.wait_until(up, name)
    return process, f"127.0.0.1:{port}"


DIRECT = "no proxy"
PROXIES = {"weir-gateway": weir, "haproxy": haproxy(False), "haproxy tuned": haproxy(True), "nbdkit nbd + rate": nbdkit,
           "qemu-storage-daemon + throttle": qemu}


def cpu_seconds(pid):
    """The process's CPU clock: what /proc/PID/stat counts in ticks, in nanoseconds (CPUCLOCK_SCHED of clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def load(address, row, seconds):
    argv = [LOAD, "-d", str(row.depth), "-b", str(row.size), "-r", "100" if row.read else "0", "-c", str(row.connections),
            "-t", str(seconds), "-w", str(min(0.1, seconds / 4)), address]
    r = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    if r.returncode != 0:
        raise SystemExit(f"{' '.join(argv)}: {r.stderr.strip()}")
    return json.loads(r.stdout)


def measure(rows, names, rounds, seconds):
    """{(row name, proxy name): [one result a round]}."""
    results = {}
    with weirtest.World() as w:
        storage = weirtest.Process(w, "ramnbd", [RAM])
        address = storage.wait_line(r"^ramnbd: listening on (\S+)$").group(1)
        ready = {DIRECT: (None, address)}
        ready.update({name: PROXIES[name](w, int(address.rsplit(":", 1)[1])) for name in names})
        for i in range(rounds):
            print(f"round {i + 1} of {rounds}, load average {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
            for row in rows:
                for name, (process, at) in ready.items():
                    before = cpu_seconds(process.pid) if process else 0
                    r = load(at, row, seconds)
                    r["proxy_cpu_us"] = (cpu_seconds(process.pid) - before) * 1e6 / r["all_ios"] if process else None
                    results.setdefault((row.name, name), []).append(r)
    return results


def median(results, row, name, key):
    return statistics.median(r[key] for r in results[row.name, name])


def paired(results, row, name, base, key):
    """Median over the rounds of the ratio to `base` in the same round."""
    return statistics.median(a[key] / b[key] for a, b in zip(results[row.name, name], results[row.name, base]))


def tables(results, rows, names):
    out = ["| Load | " + " | ".join([f"{DIRECT}, IOPS", *names]) + " |", "|---" * (len(names) + 2) + "|"]
    for row in rows:
        cells = [f"{median(results, row, DIRECT, 'iops'):,.0f}"]
        cells += [f"{paired(results, row, n, DIRECT, 'iops'):.2f} · {median(results, row, n, 'proxy_cpu_us'):.2f} s" for n in names]
        out.append(f"| {row.name} | " + " | ".join(cells) + " |")
    single = [row for row in rows if row.depth == 1 and row.connections == 1]
    if single:
        out += ["", f"| Mean latency added, µs | {DIRECT} | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for row in single:
        base = median(results, row, DIRECT, "mean_us")
        added = [f"+{statistics.median(a['mean_us'] - b['mean_us'] for a, b in zip(results[row.name, n], results[row.name, DIRECT])):.1f}"
                 for n in names]
        out.append(f"| {row.name} | {base:.1f} | " + " | ".join(added) + " |")
    return out


def verdicts(results, rows, names):
    """weir-gateway to haproxy tuned, row by row, and to the best of the NBD-aware rivals at depth 16."""
    us, tuned, out = "weir-gateway", "haproxy tuned", []
    if us not in names:
        return out
    if tuned in names:
        out += ["| Load | IOPS to haproxy tuned | CPU per I/O to haproxy tuned |", "|---|---|---|"]
        out += [f"| {row.name} | {paired(results, row, us, tuned, 'iops'):.2f} | {paired(results, row, us, tuned, 'proxy_cpu_us'):.2f} |"
                for row in rows]
    aware = [n for n in names if n.startswith(("nbdkit", "qemu"))]
    if aware and any(row.depth == 16 for row in rows):
        out += ["", "| Load | IOPS to the best NBD-aware rival |", "|---|---|"]
    for row in [row for row in rows if row.depth == 16 and aware]:
        best = max(aware, key=lambda n: median(results, row, n, "iops"))
        out.append(f"| {row.name} | {paired(results, row, us, best, 'iops'):.1f} ({best}) |")
    if "haproxy" in names:
        for row in [row for row in rows if row.depth == 1 and row.connections == 1]:
            added = [statistics.median(a["mean_us"] - b["mean_us"] for a, b in
                                       zip(results[row.name, n], results[row.name, DIRECT])) for n in (us, "haproxy")]
            out += ["", f"Added latency, {row.name}: {added[0] / added[1]:.2f} of haproxy's."]
    return out


def version(*argv):
    r = subprocess.run(argv, capture_output=True, text=True)
    return (r.stdout or r.stderr).split("\n")[0].strip()


def machine():
    with open("/proc/cpuinfo") as f:
        model = re.search(r"model name\s*: (.*)", f.read())
    with open("/etc/debian_version") as f:
        debian = f.read().strip()
    with open("/proc/sys/net/ipv4/tcp_congestion_control") as f:
        control = f.read().strip()
    return [f"- {os.cpu_count()} CPUs ({model.group(1) if model else platform.machine()}), Linux {platform.release()}, Debian {debian}, "
            f"loopback TCP ({control}); client, proxy and storage share the CPUs",
            f"- {version('haproxy', '-v')}", f"- {version('nbdkit', '--version')}", f"- {version('qemu-storage-daemon', '--version')}"]


def matching(pattern, names):
    return [n for n in names if re.search(pattern, n)]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--seconds", type=float, default=0.5, help="of each run")
    p.add_argument("--rows", default="", metavar="REGEX", help="of loads' names, as in the table")
    p.add_argument("--proxies", default="", metavar="REGEX")
    p.add_argument("--no-limits", action="store_true", help="leave the limiters' table out")
    p.add_argument("--limit-seconds", type=float, default=2, help="of each limiter's run")
    p.add_argument("--json", metavar="FILE", help="every single result")
    p.add_argument("--write", metavar="FILE", help="the report, as Markdown, between its two marks if it has them")
    a = p.parse_args()
    rows = [row for row in ROWS if re.search(a.rows, row.name)]
    names = matching(a.proxies, PROXIES)
    if not rows:
        p.error(f"--rows {a.rows}: no such load")
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    results = measure(rows, names, a.rounds, a.seconds)
    out = ["## Measured", "", f"{began}, {a.rounds} interleaved rounds of {a.seconds} s a run.", "", *machine(), "",
           "### Data path", "",
           "IOPS as a ratio to no proxy (median of the rounds' ratios) · proxy CPU seconds per million I/Os (median).", "",
           *tables(results, rows, names), "", "### Beside the rivals", "", *verdicts(results, rows, names)]
    if not a.no_limits:
        out += ["", "### Limits", "", f"{a.rounds} interleaved rounds of {a.limit_seconds} s a run; medians.", "",
                *limits.table(limits.measure_all(a.rounds, a.limit_seconds))]
    text = "\n".join(out) + "\n"
    print(text, flush=True)
    if a.json:
        with open(a.json, "w") as f:
            json.dump([{"row": row, "proxy": proxy, "rounds": r} for (row, proxy), r in results.items()], f, indent=1)
    if a.write:
        write(a.write, text)


def write(path, text):
    begin, end = "<!-- measured: begin -->", "<!-- measured: end -->"
    try:
        with open(path) as f:
            old = f.read()
    except FileNotFoundError:
        old = ""
    if begin in old and end in old:
        new = old.split(begin)[0] + begin + "\n" + text + end + old.split(end, 1)[1]
    else:
        new = old + begin + "\n" + text + end + "\n"
    with open(path, "w") as f:
        f.write(new)


if __name__ == "__main__":
    main()
