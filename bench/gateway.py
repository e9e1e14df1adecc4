#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""weir-gateway beside its rivals on the data path: interleaved rounds, medians, ratios to no proxy at all.

One RAM-backed server (bench/ramnbd) and one raw client (bench/nbdload) of our own; between them nothing, or one of: weir-gateway with
metering on and a limit in force that never bites, haproxy (TCP, one thread) as it comes and with 256 KiB buffers, nbdkit's nbd plugin with
its rate filter, QEMU's storage daemon with a throttle. All stand ready all the time; only one is loaded at once. In each round every row
is run through every one in turn, so that a slow moment of the machine meets all alike.

Where weir-gateway is judged against haproxy (4 KiB), a second one, of the same binary and configuration, takes part in the same rounds
and is judged too. What the two differ by is what this machine cannot tell; where only one of them does what is wanted, the row is
undecided.

    bench/gateway.py [--rounds N] [--seconds S] [--minutes M] [--rows REGEX] [--proxies REGEX] [--no-twice]
                     [--no-limits] [--no-instructions] [--limit-rounds N] [--gateway NAME=BINARY] [--engine ENGINE] [--busy-poll DURATION]
                     [--json FILE] [--write FILE]

Binaries come from $WEIR_BUILD; --gateway puts another build of weir-gateway beside it in the same rounds. A proxy's CPU is its process
clock over a run (warm-up included) by all answers of that run. Instructions are counted by valgrind, of the gateway's user code only.
"""
import argparse
import glob
import json
import os
import platform
import random
import re
import shlex
import shutil
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

    @property
    def small(self):
        return self.size == 4 * KIB


ROWS = [Row(*shape, connections) for connections in (1, 8) for shape in SHAPES]


# Each starts a proxy before the storage at `port` and returns (process, "host:port").

def weir_config(port, engine="auto", busy=None):
    more = f"busy-poll = {busy}\n" if busy else ""  # older builds do not know it
    return (f"[gateway]\nio-engine = {engine}\n{more}[listener l]\naddress = 127.0.0.1:0\ntarget = t\n[target t]\n"
            f"uri = nbd://127.0.0.1:{port}\n[limit never]\niops = {NEVER}\nbandwidth = {NEVER * 1000}\n")


def weir(binary=None, engine="auto", busy=None):
    def start(w, port):
        own, weirtest.GATEWAY = weirtest.GATEWAY, binary or weirtest.GATEWAY
        try:
            gateway = w.gateway(config=weir_config(port, engine, busy))
        finally:
            weirtest.GATEWAY = own
        return gateway, gateway.address
    return start


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
US, TUNED = "weir-gateway", "haproxy tuned"
AGAIN = "weir-gateway again"  # the same program and configuration: how far two of them lie apart
PROXIES = {US: weir(), "haproxy": haproxy(False), TUNED: haproxy(True), "nbdkit nbd + rate": nbdkit,
           "qemu-storage-daemon + throttle": qemu}


def parent_of(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return int(f.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0  # it has ended meanwhile


def cpu_seconds(pid):
    """The CPU clocks of a process and its children (weir-gateway is a manager and a worker): what /proc/PID/stat counts in ticks, in
    nanoseconds (CPUCLOCK_SCHED of clock_getcpuclockid(3))."""
    children = [int(name) for name in os.listdir("/proc") if name.isdigit() and parent_of(int(name)) == pid]
    return sum(time.clock_gettime((~p << 3) | 2) for p in [pid, *children])


def load(address, row, seconds):
    argv = [LOAD, "-d", str(row.depth), "-b", str(row.size), "-r", "100" if row.read else "0", "-c", str(row.connections),
            "-t", str(seconds), "-w", str(min(0.1, seconds / 4)), address]
    r = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    if r.returncode != 0:
        raise SystemExit(f"{' '.join(argv)}: {r.stderr.strip()}")
    return json.loads(r.stdout)


def measure(rows, names, rounds, seconds, again, until):
    """{(row name, proxy name): [one result a round]}. No round begins that would not end before `until`, by time.monotonic()."""
    results, order, began = {}, random.Random(1), time.monotonic()
    with weirtest.World() as w:
        storage = weirtest.Process(w, "ramnbd", [RAM])
        address = storage.wait_line(r"^ramnbd: listening on (\S+)$").group(1)
        ready = {DIRECT: (None, address)}
        ready.update({name: PROXIES[name](w, int(address.rsplit(":", 1)[1])) for name in names})
        twice = PROXIES[US](w, int(address.rsplit(":", 1)[1])) if again else None
        for i in range(rounds):
            if i > 0 and time.monotonic() + (time.monotonic() - began) / i > until:
                print(f"time is up after {i} rounds", file=sys.stderr, flush=True)
                break
            print(f"round {i + 1} of {rounds}, load average {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
            for row in rows:
                # A proxy must not always run right after the same other one: what ran before moves the next one's figures. (Each
                # one further in turn would keep all neighbours: two of the same program then differed by 4 % in IOPS, 25 % in CPU.)
                turn = list(ready.items()) + ([(AGAIN, twice)] if again and row.small else [])
                order.shuffle(turn)
                for name, (process, at) in turn:
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
    if singles(rows):
        out += ["", f"| Mean latency added, µs | {DIRECT} | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for row in singles(rows):
        base = median(results, row, DIRECT, "mean_us")
        added = [f"{added_us(results, row, n):+.1f}" for n in names]
        out.append(f"| {row.name} | {base:.1f} | " + " | ".join(added) + " |")
    return out


def ratio(results, row, base, key, name=US):
    """`name` to `base`: the rounds' ratios, as median and quartiles."""
    each = [a[key] / b[key] for a, b in zip(results[row.name, name], results[row.name, base])]
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    return middle, low, high


def added_us(results, row, name):
    return statistics.median(a["mean_us"] - b["mean_us"] for a, b in zip(results[row.name, name], results[row.name, DIRECT]))


def singles(rows):
    return [row for row in rows if row.depth == 1 and row.connections == 1]


def best_aware(results, row, names):
    aware = [n for n in names if n.startswith(("nbdkit", "qemu"))]
    return max(aware, key=lambda n: median(results, row, n, "iops")) if aware else None


def verdicts(results, rows, names):
    """weir-gateway to haproxy tuned, row by row, and to the best of the NBD-aware rivals at depth 16."""
    out = []
    if US not in names:
        return out
    if TUNED in names:
        out += [f"| Load | IOPS to {TUNED} (quartiles) | the same again | CPU per I/O to {TUNED} (quartiles) | the same again | must "
                "| goal |", "|---|---|---|---|---|---|---|"]
    for row in rows if TUNED in names else []:
        cells = [spread(results, row, name, key) for key in KEYS for name in (US, AGAIN)]
        cells += [judged(results, row, *wanted) if row.small else "-" for wanted in (MUST, GOAL)]
        out.append(f"| {row.name} | " + " | ".join(cells) + " |")
    deep = [row for row in rows if row.depth == 16 and best_aware(results, row, names)]
    if deep:
        out += ["", "| Load | IOPS to the best NBD-aware rival |", "|---|---|"]
    for row in deep:
        best = best_aware(results, row, names)
        out.append(f"| {row.name} | {paired(results, row, US, best, 'iops'):.1f} ({best}) |")
    return out


REMARK = ["*The same again* is a second weir-gateway of the same binary in the same rounds. *Met* and *missed* are said where both agree; "
          "where they do not, the row is undecided.", ""]
# IOPS at least and CPU per I/O at most, as ratios to haproxy tuned's; as they are printed, with two decimals.
MUST, GOAL = (1.0, 1.0), (1.05, 0.85)


KEYS = ("iops", "proxy_cpu_us")


def spread(results, row, name, key):
    return "{:.2f} ({:.2f} to {:.2f})".format(*ratio(results, row, TUNED, key, name)) if (row.name, name) in results else "-"


def finding(results, row, key, wanted):
    """Whether weir-gateway does what is wanted beside haproxy tuned: True, False, or None where it and its like do not agree."""
    found = {round(ratio(results, row, TUNED, key, name)[0], 2) for name in (US, AGAIN) if (row.name, name) in results}
    good = {v >= wanted if key == "iops" else v <= wanted for v in found}
    return good.pop() if len(good) == 1 else None


def marked(found):
    """`found`: {what: True, False or None}. The marks of what is missed and of what is undecided, each with those it is said of."""
    each = [(mark, [what for what, v in found.items() if v is is_it]) for mark, is_it in (("**missed**", False), ("**undecided**", None))]
    return [(mark, at) for mark, at in each if at]


def judged(results, row, least, most):
    found = {"IOPS": finding(results, row, "iops", least), "CPU": finding(results, row, "proxy_cpu_us", most)}
    return "; ".join(f"{mark}: {', '.join(at)}" for mark, at in marked(found)) or "met"


def said(misses, words="met"):
    return words if not misses else "**missed**: " + "; ".join(misses)


def counted(results, small, key, wanted):
    """How many of the 4 KiB loads do as wanted, and which do not or may not."""
    found = {row.name: finding(results, row, key, wanted) for row in small}
    near = {row.name: " and ".join(f"{ratio(results, row, TUNED, key, name)[0]:.2f}" for name in (US, AGAIN) if (row.name, name) in results)
            for row in small}
    words = [f"{mark}: " + "; ".join(f"{n} {near[n]}" for n in at) for mark, at in marked(found)]
    return f"{sum(v is True for v in found.values())} of {len(found)} loads; {'; '.join(words) or 'met'}"


def summary(results, rows, names, limiters):
    """What was wanted, and whether this run shows it."""
    out = ["| Wanted | Found |", "|---|---|"]
    small = [row for row in rows if row.small]
    if small and {US, TUNED} <= set(names):
        out += [f"| 4 KiB: IOPS no less than haproxy tuned's (must) | {counted(results, small, 'iops', MUST[0])} |",
                f"| 4 KiB: CPU per I/O no more than haproxy tuned's (must) | {counted(results, small, 'proxy_cpu_us', MUST[1])} |",
                f"| 4 KiB: IOPS 1.05 or more (goal) | {counted(results, small, 'iops', GOAL[0])} |",
                f"| 4 KiB: CPU per I/O 0.85 or less (goal) | {counted(results, small, 'proxy_cpu_us', GOAL[1])} |"]
    deep = {row.name: paired(results, row, US, best_aware(results, row, names), "iops")
            for row in rows if row.depth == 16 and US in names and best_aware(results, row, names)}
    if deep:
        out.append(f"| At least 5 times the best NBD-aware rival at depth 16 (must; goal 8) | {min(deep.values()):.1f} to "
                   f"{max(deep.values()):.1f}; {said([f'{n} {v:.1f}' for n, v in deep.items() if v < 5])} |")
    if {US, "haproxy"} <= set(names) and singles(rows):
        added = {row.name: added_us(results, row, US) / added_us(results, row, "haproxy") for row in singles(rows)}
        found = ", ".join(f"{v:.2f} ({n}: {'met' if round(v, 2) <= 0.75 else '**missed**'})" for n, v in added.items())
        out.append(f"| Latency added at depth 1, 0.75 or less of haproxy's (goal) | {found} |")
    if limiters:
        mine = {key: [statistics.median(v) for (n, _, k), v in limiters.items() if n == US and k == key] for key in
                ("steady", "first", "p99")}
        steady, first, p99 = (max(mine[k], key=abs) for k in ("steady", "first", "p99"))
        out += [f"| Limits: steady error 0.1 % or less, first second +1 % or less (goal) | {100 * steady:+.2f} %, {100 * first:+.1f} % |",
                f"| Limits: p99 at depth 1 within 1.15 of the ideal 0.50 ms (goal) | {p99:.2f} ms, {p99 / 0.5:.2f} |"]
    return out


INSTRUCTIONS = [Row(4 * KIB, read, depth, 1) for read in (True, False) for depth in (1, 16, 64)]


def instructions(row, seconds):
    """Instructions per I/O of the gateway's own code and its libraries, those of its start and end taken off."""
    runs = []
    for length in (seconds, 2 * seconds):
        with weirtest.World() as w:
            storage = weirtest.Process(w, "ramnbd", [RAM])
            port = int(storage.wait_line(r"^ramnbd: listening on (\S+)$").group(1).rsplit(":", 1)[1])
            path, out, state = w.path("gateway.conf"), w.path("callgrind.out"), w.path("state")
            os.mkdir(state, 0o700)
            with open(path, "w") as f:
                f.write(weir_config(port))
            gateway = weirtest.Process(w, "callgrind", [
                "valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}.%p", weirtest.GATEWAY, "--state-dir", state,
                "--socket", os.path.join(state, "s"), "--config", path])
            address = gateway.wait_line(r"^weir-gateway: listening on (\S+) for target").group(1)
            ios = load(address, row, length)["all_ios"]
            gateway.popen.terminate()
            gateway.popen.wait(60)
            total = 0  # of manager and worker
            for path in glob.glob(f"{out}.*"):
                with open(path) as f:
                    total += int(re.search(r"^(?:summary|totals): (\d+)", f.read(), re.M).group(1))
            runs.append((ios, total))
    (few, less), (many, more) = runs
    return (more - less) / (many - few)


def instructions_table(rows, seconds):
    out = ["| Load | instructions per I/O |", "|---|---|"]
    for row in rows:
        print(f"instructions: {row.name}", file=sys.stderr, flush=True)
        out.append(f"| {row.name} | {instructions(row, seconds):,.0f} |")
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


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--rounds", type=int, default=13)
    p.add_argument("--seconds", type=float, default=0.2, help="of each run; many short rounds tell more than few long ones")
    p.add_argument("--minutes", type=float, default=0, help="all of it takes about so long at most: fewer rounds where the machine is slow")
    p.add_argument("--rows", default="", metavar="REGEX", help="of loads' names, as in the table")
    p.add_argument("--proxies", default="", metavar="REGEX")
    p.add_argument("--gateway", action="append", default=[], metavar="NAME=BINARY", help="another build of weir-gateway beside this one")
    p.add_argument("--engine", action="append", default=[], choices=["epoll", "io_uring"], help="weir-gateway with this engine too")
    p.add_argument("--busy-poll", action="append", default=[], metavar="DURATION", help="weir-gateway with this busy-poll too")
    p.add_argument("--no-twice", action="store_true", help="leave the second weir-gateway out, which shows the noise")
    p.add_argument("--no-limits", action="store_true", help="leave the limiters' table out")
    p.add_argument("--limit-rounds", type=int, default=5, help="of the limiters, at most --rounds")
    p.add_argument("--limit-seconds", type=float, default=2, help="of each limiter's run")
    p.add_argument("--no-instructions", action="store_true", help="leave the instruction counts out")
    p.add_argument("--json", metavar="FILE", help="every single result")
    p.add_argument("--write", metavar="FILE", help="the report, as Markdown, between its two marks if it has them")
    a = p.parse_args()
    a.limit_rounds = min(a.limit_rounds, a.rounds)
    # What follows the rounds: eight runs of limiters and one without, each with a second of idleness and its start; valgrind twice a row.
    rest = (0 if a.no_limits else a.limit_rounds * 9 * (a.limit_seconds + 2)) + (0 if a.no_instructions else 20 * len(INSTRUCTIONS))
    a.until = time.monotonic() + 60 * a.minutes - rest if a.minutes else float("inf")
    a.chosen = [row for row in ROWS if re.search(a.rows, row.name)]
    if not a.chosen:
        p.error(f"--rows {a.rows}: no such load")
    if not a.no_instructions and not shutil.which("valgrind"):
        p.error("valgrind is missing; --no-instructions does without")
    return a


def main():
    a = arguments()
    names = [n for n in PROXIES if re.search(a.proxies, n)]
    more = {f"{US}, {engine}": weir(engine=engine) for engine in a.engine}
    more.update({f"{US}, busy-poll {busy}": weir(busy=busy) for busy in a.busy_poll})
    more.update({name: weir(binary=binary) for name, binary in (g.split("=", 1) for g in a.gateway)})
    PROXIES.update(more)
    names += more
    rows, began, load_average = a.chosen, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), os.getloadavg()[0]
    results = measure(rows, names, a.rounds, a.seconds, again=not a.no_twice and {US, TUNED} <= set(names), until=a.until)
    rounds = len(results[rows[0].name, DIRECT])
    limiters = {} if a.no_limits else limits.measure_all(a.limit_rounds, a.limit_seconds)
    command = shlex.join(["bench/gateway.py", *sys.argv[1:]])
    out = ["## Measured", "", f"{began}, `{command}`: {rounds} interleaved rounds of {a.seconds} s a run; load average "
           f"{load_average:.1f} before.", "", *machine(), "", "### In short", "", *summary(results, rows, names, limiters), "",
           "### Data path", "",
           "IOPS as a ratio to no proxy (median of the rounds' ratios) · proxy CPU seconds per million I/Os (median).", "",
           *tables(results, rows, names), "", "### Beside the rivals", "", *REMARK, *verdicts(results, rows, names)]
    if not a.no_instructions:
        shown = [row for row in INSTRUCTIONS if re.search(a.rows, row.name)]
        out += ["", "### Instructions", "", "By callgrind, the reactor and the C library included, two limits in force; the kernel's "
                "are not counted.", "", *instructions_table(shown, max(a.seconds, 0.5))]
    if limiters:
        out += ["", "### Limits", "", f"{a.limit_rounds} interleaved rounds of {a.limit_seconds} s a run; medians.", "",
                *limits.table(limiters)]
    text = "\n".join(out) + "\n"
    print(text, flush=True)
    if a.json:
        with open(a.json, "w") as f:
            json.dump([{"row": row, "proxy": proxy, "rounds": r} for (row, proxy), r in results.items()] +
                      [{"limiter": n, "iops": iops, "figure": key, "rounds": v} for (n, iops, key), v in limiters.items()], f, indent=1)
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
