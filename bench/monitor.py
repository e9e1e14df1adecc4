#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The performance monitor beside its rivals and in trouble: interleaved rounds, one load program (bench/gwload) for all.

  exchange   bench/gwserve in four forms (see bench/gw_serve.c for what each does with a message): saturated, every gateway polled
             again as soon as it answered; and paced, each polled once a second with 16 streams
  server     the real weir-server: once a second, CPU by thread, surge to control, memory
  trouble    the real server while its database is locked, gateways stop reading or are half-open, one SLA process is stopped,
             and a thousand gateways come back at once; against the seconds just before

    bench/monitor.py --matrix     all of it, each trouble at each size with one pair and two, within --minutes (20): what is judged
                                  comes first, what there is no time for is left out and named; so is what fails
    bench/monitor.py [--quick] [--parts exchange,server,trouble] [--sizes 10,100,1000,10000] [--rounds N] [--seconds S]
                     [--minutes M] [--json FILE] [--images DIR] [--write docs/performance.md]

Round trips are the server's: from handing out a poll to the answer folded in. Binaries come from $WEIR_BUILD.
"""
import argparse
import contextlib
import ctypes
import json
import os
import platform
import select
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests/lib"))
sys.path.insert(0, os.path.join(ROOT, "bench"))

import chart  # noqa: E402
import played  # noqa: E402
import weirtest  # noqa: E402

GWSERVE = os.path.join(weirtest.BUILD, "bench", "gwserve")
PER_PROCESS = 5000  # gateways of one load process
PATIENCE = 30  # seconds for an answer of a program that is measured
TROUBLE_OVERHEAD = 20  # seconds that troubles take beside their windows: connecting, settling, a thousand that come back
DISTURBED = 0.15  # of a core: a window in which others took more is measured again
DUEL = ("weir monitor", "libzmq ROUTER")  # whose saturated exchanges are compared: in turn, several times
FORMS = {  # name: (form, wire, extra arguments)
    "weir monitor": ("pair", "weir", []),
    "weir monitor, 2 pairs": ("pair", "weir", ["--pairs", "2", "--processes", "2"]),
    "thread per connection": ("threads", "weir", []),
    "libzmq ROUTER": ("zmq", "zmtp", []),
    "nng REP": ("nng", "sp", []),
}


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# --- what fails, and time

class TimeUp(Exception):
    """SIGTERM: what was measured by then is written."""


def time_up(*_):
    raise TimeUp


def tried(result, what, run):
    """What @run returns; None, said and noted, where it fails: the rest goes on."""
    try:
        return run()
    except TimeUp:
        raise
    except (Exception, SystemExit) as e:  # pylint: disable=broad-except
        result["failed"].append(f"{what}: {str(e)[:160] or type(e).__name__}")
        say(f"  failed: {result['failed'][-1]}")
        return None


# --- processes

def cpu_of(pid):
    """{thread name and id: CPU seconds}, for the threads that live now."""
    out = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/task/{tid}/schedstat") as s, open(f"/proc/{pid}/task/{tid}/comm") as c:
                out[c.read().strip(), tid] = int(s.read().split()[0]) / 1e9
    return out


def process_cpu(pid):
    return time.clock_gettime((~pid << 3) | 2)


def busy():
    """CPU seconds of all that runs on this machine, its host's other guests included, interrupts aside."""
    with open("/proc/stat", encoding="ascii") as f:
        user, nice, system, _, _, _, _, steal = (int(v) for v in f.readline().split()[1:9])
    return (user + nice + system + steal) / os.sysconf("SC_CLK_TCK")


def rss(pid):
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return 1024 * int(next(line.split()[1] for line in f if line.startswith("Rss:")))


class Load:
    """Gateways over as many gwload processes as they need."""

    def __init__(self, address, key, n, streams, active, wire="weir", surgers=0):
        self.n, self.parts = n, []
        # The server takes so many handshakes of an address at once; a rival's ends with the first poll, up to a second later.
        at_once = 120 if wire == "weir" else 1200
        for i, first in enumerate(range(0, n, PER_PROCESS)):
            count = min(PER_PROCESS, n - first)
            args = ["--first", first, "--streams", streams, "--active", active, "--wire", wire, "--net", i + 1, "--sources", 32,
                    "--dial-limit", at_once // -(-n // PER_PROCESS)]
            if surgers and i == 0:
                args += ["--surgers", min(surgers, count), "--surge-ms", 50]
            self.parts.append(played.Played(address, key, count, *args))

    def do(self, *words):
        for p in self.parts:
            p.do(*words)

    def share(self, verb, n, least=1):
        """@verb for @n gateways, spread over the processes."""
        for p in self.parts:
            p.do(verb, max(least, round(n * p.gateways / self.n)))

    def up(self):
        return sum(p.report()["up"] for p in self.parts)

    def connect(self, patience=120):
        began = time.monotonic()
        self.do("dial")
        weirtest.wait_until(lambda: self.up() == self.n, f"{self.n} gateways to connect", patience)
        return time.monotonic() - began

    def reports(self):
        return [p.report() for p in self.parts]

    def close(self):
        for p in self.parts:
            p.close()


def times(hist):
    return {name: played.quantile(hist, q) for name, q in (("p50", .5), ("p99", .99), ("p999", .999))} | {"count": hist["count"]}


# --- exchange: four forms of server

class Exchange:
    def __init__(self, form, gateways, period_ms):
        kind, self.wire, extra = FORMS[form]
        self.dir = tempfile.TemporaryDirectory(prefix="weir-bench-")
        self.key = os.path.join(self.dir.name, "gateway.key")
        with open(self.key, "w", encoding="ascii") as f:
            f.write("5a" * 32 + "\n")
        listen = f"127.0.0.1:{weirtest.free_port()}"
        self.popen = subprocess.Popen([GWSERVE, "--form", kind, "--listen", listen, "--state-dir", self.dir.name, "--gateways",
                                       str(gateways + 200), "--period-ms", str(period_ms), *extra],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.line()
        if not line.startswith("listening on "):
            self.close()
            raise OSError(f"gwserve --form {kind} does not start")
        self.address, self.pid = line.split()[-1], self.popen.pid

    def line(self):
        if not select.select([self.popen.stdout], [], [], PATIENCE)[0]:
            raise OSError(f"nothing was heard of gwserve for {PATIENCE} s")
        return self.popen.stdout.readline()

    def ask(self, word):
        self.popen.stdin.write(word + "\n")
        self.popen.stdin.flush()
        return self.line()

    def close(self):
        self.popen.kill()
        self.popen.wait()
        self.popen.stdin.close()
        self.popen.stdout.close()
        self.dir.cleanup()


def exchange_once(form, n, streams, active, period_ms, seconds):
    server = Exchange(form, n, period_ms)
    load = None
    try:
        idle = rss(server.pid)
        load = Load(server.address, server.key, n, streams, active, server.wire)
        # A rival that is busy with those that stand takes one newcomer a turn: all connect before any answers.
        load.do("hush")
        connect = load.connect()
        load.do("speak")
        time.sleep(1.2 if period_ms else 0.8)
        load.do("mark")
        server.ask("mark")
        began, cpu, before, all_cpu = time.monotonic(), process_cpu(server.pid), cpu_of(server.pid), busy()
        load_cpu = sum(process_cpu(p.pid) for p in load.parts)
        time.sleep(seconds)
        seen = json.loads(server.ask("report"))
        took, cpu, after = time.monotonic() - began, process_cpu(server.pid) - cpu, cpu_of(server.pid)
        load_cpu = sum(process_cpu(p.pid) for p in load.parts) - load_cpu
        others = max(0, busy() - all_cpu - cpu - load_cpu) / took
        answers = max(seen["answers"], 1)
        gained = (rss(server.pid) - idle) / n
        reports = load.reports()
        return {"form": form, "gateways": n, "streams": streams, "period_ms": period_ms, "connect_s": connect,
                "exchanges_per_s": seen["answers"] / took, "cpu_us": cpu * 1e6 / answers, "cpu_part": cpu / took,
                "load_cpu_us": load_cpu * 1e6 / answers, "threads": len(after), "others": others, "memory_per_gateway": gained,
                "memory_without_reports": gained - seen["report_bytes"] / n,
                "answer_bytes": sum(r["bytes_out"] for r in reports) / max(sum(r["answers"] for r in reports), 1),
                "pair_cpu": sum(v - before.get(k, 0) for k, v in after.items() if k[0].startswith(("inbound", "outbound"))) / took,
                "round_trip": times(seen["round_trip"])}
    finally:
        if load:
            load.close()
        server.close()


def tls_memory(sessions=1000):
    """What a session that stands and has spoken adds at the server with TLS: {"sessions", "resident", "allocated"}, bytes."""
    return json.loads(subprocess.run([os.path.join(weirtest.BUILD, "bench", "bench-tls"), str(sessions)], check=True, text=True,
                                     stdout=subprocess.PIPE).stdout)


def exchange_tried(form, n, streams, period, seconds):
    """Again, once, when it could not be measured or something else ran beside it; a row that says so."""
    best, why = None, ""
    for _ in range(2):
        try:
            row = exchange_once(form, n, streams, streams, period, seconds)
        except (AssertionError, OSError, ValueError, KeyError) as e:  # it died, or said nothing that makes sense
            why = str(e)[:200]
            say(f"  not measured: {why}")
            continue
        if best is None or row["others"] < best["others"]:
            best = row
        if best["others"] <= DISTURBED:
            break
        say(f"  others took {100 * row['others']:.0f} % of a core")
    return best or {"form": form, "gateways": n, "streams": streams, "period_ms": period, "failed": why}


def exchange_part(o, number, until):
    """One round; what would begin after @until is left out."""
    out, built = [], [f for f, (kind, _, _) in FORMS.items() if kind in ("pair", "threads") or form_built(kind)]
    for n in o.sizes:
        for form in built:
            for streams, period in ((1, 0), (16, 1000)):
                if time.monotonic() > until:
                    say(f"round {number}: {form}, {n} gateways left out: the time is up")
                    continue
                say(f"round {number}: {form}, {n} gateways, {'paced' if period else 'saturated'}")
                out.append(exchange_tried(form, n, streams, period, o.seconds))
    return out


def duel_part(o, until):
    """The saturated exchanges that a goal compares, in turn; what would begin after @until is left out."""
    out, built = [], [f for f in DUEL if FORMS[f][0] == "pair" or form_built(FORMS[f][0])]
    for i in range(o.duels):
        for n in [n for n in o.sizes if n >= 100 and time.monotonic() < until]:
            for form in built:
                say(f"duel {i + 1}: {form}, {n} gateways")
                out.append(exchange_tried(form, n, 1, 0, o.seconds))
    return out


# --- the real server

def real_streams(n):
    """Streams a gateway: 16, as far as the server's bound on streams lets."""
    return 16 if n <= 1000 else 3


@contextlib.contextmanager
def real(n, pairs, surgers=16):
    with weirtest.World() as w:
        conf = w.path("server.conf")
        with open(conf, "w", encoding="ascii") as f:
            f.write(f"[server]\npairs = {pairs}\nsla-processes = 2\nmax-gateways = {n + 1200}\nlog-level = error\n")
        server = w.server("--config", conf)
        server.put("/agreements/surging", {"kind": "Agreement", "name": "surging", "appliesTo": {"host": "surge-*"}, "per": "stream",
                                           "limit": {"iops": 1000000}})
        server.idle_rss = rss(server.pid)
        load = Load(server.control, os.path.join(server.state_dir, "gateway.key"), n, real_streams(n), real_streams(n),
                    surgers=min(surgers, n))
        try:
            server.connect_s = load.connect()
            yield server, load
        finally:
            load.close()


def polls(server):
    return {p["process"]: p for p in server.items("/debug/polls")}


def polls_between(before, after, processes=None):
    """The distribution of round trips between two readings, of those processes that answered both."""
    buckets = {}
    lost = 0
    for k, a in after.items():
        if processes is not None and k not in processes:
            continue
        was = before.get(k, {"pollsLost": 0, "buckets": []})  # one that had no gateway yet is not listed
        lost += a["pollsLost"] - was["pollsLost"]
        for sign, part in ((1, a), (-1, was)):
            for b in part["buckets"]:
                buckets[b["belowNs"]] = buckets.get(b["belowNs"], 0) + sign * b["count"]
    hist = {"count": sum(buckets.values()), "buckets": sorted((k, v) for k, v in buckets.items() if v > 0)}
    return times(hist) | {"lost": lost, "hist": hist}


def pooled(windows, key="round_trip"):
    """Round trips of several windows together."""
    buckets = {}
    for w in windows:
        for k, v in w[key]["hist"]["buckets"]:
            buckets[k] = buckets.get(k, 0) + v
    return times({"count": sum(buckets.values()), "buckets": sorted(buckets.items())})


def window(server, load, seconds, within=None):
    """What the server did in the next seconds; @within is begun with them. Round trips of all, and of the second SLA process only."""
    load.do("mark")
    before, cpu, began = polls(server), cpu_of(server.pid), time.monotonic()
    if within:
        within()
    time.sleep(max(0, seconds - (time.monotonic() - began)))
    took, after_cpu = time.monotonic() - began, cpu_of(server.pid)
    reports = load.reports()
    after = polls(server)
    threads = {}
    for (name, tid), v in after_cpu.items():
        threads[name] = threads.get(name, 0) + (v - cpu.get((name, tid), 0)) / took
    surge = played.merge([r["surge_to_control"] for r in reports])
    return {"seconds": took, "round_trip": polls_between(before, after), "round_trip_1": polls_between(before, after, {1}),
            "threads": threads, "surge": times(surge),
            "gap": times(played.merge([r["poll_gap"] for r in reports])), "drops": sum(r["drops"] for r in reports),
            "thread_count": len(after_cpu), "answers_per_s": sum(r["answers"] for r in reports) / took}


def server_once(o, n, pairs):
    say(f"weir-server: {n} gateways, {pairs} pair(s)")
    with real(n, pairs) as (server, load):
        time.sleep(4)
        return window(server, load, max(o.seconds, 5)) | {
            "gateways": n, "pairs": pairs, "streams": real_streams(n), "connect_s": server.connect_s,
            "memory_per_gateway_all": (rss(server.pid) - server.idle_rss) / n,
            "warnings": server.get("/debug/threads")["warnings"]}


def server_part(o, result):
    rows = (tried(result, f"server, {n} gateways, {pairs} pair(s)", lambda n=n, pairs=pairs: server_once(o, n, pairs))
            for n in o.sizes for pairs in o.pairs)
    result["server"] += [r for r in rows if r]


# --- trouble

def lock_database(server, seconds):
    """Nobody writes to either database for so long."""
    held = []
    for name in ("state.db", "samples.db"):
        db = sqlite3.connect(os.path.join(server.state_dir, name), isolation_level=None, timeout=30, check_same_thread=False)
        db.execute("BEGIN EXCLUSIVE")
        held.append(db)

    def give_back():
        time.sleep(seconds)
        for db in held:
            db.execute("ROLLBACK")
            db.close()
    t = threading.Thread(target=give_back)
    t.start()
    return t


def ptrace(request, tid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(request, tid, None, None) < 0:
        raise SystemExit(f"ptrace of thread {tid}: {os.strerror(ctypes.get_errno())}")


def stop_thread(server, name):
    """Stop one thread of the server and no other (ptrace: SEIZE, INTERRUPT); its id, for let_thread_go."""
    tid = next(int(t) for (comm, t) in cpu_of(server.pid) if comm == name)
    ptrace(0x4206, tid)
    ptrace(0x4207, tid)
    os.waitpid(tid, 0x40000000)
    return tid


def let_thread_go(tid):
    ptrace(17, tid)


def storm(load, n):
    """Seconds until @n gateways that lost their connections at once stand again and were polled; with the time each part took."""
    load.share("storm", n)
    began = time.monotonic()
    while any(r["settle_left"] for r in load.reports()) and time.monotonic() - began < 60:
        time.sleep(0.05)
    return max(r["settle_s"] for r in load.reports())


def queues(server, before=()):
    """How full mailboxes ever were, and what found no room: since the start, or since @before."""
    was = {q["name"]: q["refused"] for q in before}
    return [{"name": t["name"], "capacity": t["capacity"], "deepest": t["depthMax"], "refused": t["refused"] - was.get(t["name"], 0)}
            for t in server.items("/debug/threads")]


class Trouble:
    """One kind of it: how long its window is, whose round trips count, how it begins and ends. What a process catches up with when
    it goes on is no longer the trouble: its window is read before that."""

    def __init__(self, name, seconds, begin, end, key="round_trip"):
        self.name, self.seconds, self.begin, self.end, self.key, self.seen = name, seconds, begin, end, key, []


def troubles(o, server, load, n):
    tenth, short, stopped = max(1, n // 10), o.trouble_seconds, []
    # A gateway that is half-open is lost after three heartbeats, six seconds.
    return [Trouble("database locked", short, lambda: lock_database(server, short), lambda: None),
            Trouble("10 % stop reading", max(short, 4), lambda: load.share("deaf", tenth), lambda: load.do("heal")),
            Trouble("10 % half-open", max(short, 8), lambda: load.share("half", tenth), lambda: load.do("heal")),
            Trouble("one SLA process stopped", short, lambda: stopped.append(stop_thread(server, "services[0]")),
                    lambda: let_thread_go(stopped.pop()), "round_trip_1")]


def storm_case(server, load, n, pairs):
    back = min(1000, n - 32 if n > 64 else n // 2)
    say(f"trouble: {back} gateways come back at once ({n} gateways, {pairs} pair(s))")
    before = queues(server)
    took = storm(load, back)
    return {"case": f"{back} reconnect at once", "gateways": n, "pairs": pairs, "settled_s": took, "queues": queues(server, before),
            "memory_per_gateway_all": (rss(server.pid) - server.idle_rss) / n}


def trouble_part(o, n, pairs):
    # Those that warn are spared by the troubles: never all of them.
    with real(n, pairs, min(16, n // 2)) as (server, load):
        time.sleep(4)
        # First, since the deepest that a queue ever was is of all that came before.
        back = storm_case(server, load, n, pairs)
        time.sleep(2)
        cases = troubles(o, server, load, n)
        # Calm windows differ by half: each trouble comes several times, between two calm ones, and what counts is all its windows
        # together against all of those.
        calm = window(server, load, o.trouble_seconds)
        for i in range(o.trouble_rounds):
            for case in cases:
                say(f"trouble {i + 1}: {case.name} ({n} gateways, {pairs} pair(s))")
                before, bad = calm, window(server, load, case.seconds, case.begin)
                case.end()
                weirtest.wait_until(lambda: load.up() == n, "all gateways to stand again", 60)
                time.sleep(2)
                calm = window(server, load, o.trouble_seconds)
                case.seen.append({"before": before, "during": bad, "after": calm})
    return [{"case": c.name, "gateways": n, "pairs": pairs, "key": c.key, "rounds": c.seen} for c in cases] + [back]


def trouble_seconds(o):
    """How long trouble_part takes, at a guess."""
    short = o.trouble_seconds
    return TROUBLE_OVERHEAD + o.trouble_rounds * (2 * short + max(short, 4) + max(short, 8) + 4 * (short + 4))


def trouble_all(o, result, until):
    """The largest number over one pair is what goals are about: it comes first."""
    cases = sorted(((n, pairs) for n in o.trouble_gateways for pairs in o.trouble_pairs), key=lambda c: (c[1], -c[0]))
    for n, pairs in cases:
        if time.monotonic() + trouble_seconds(o) > until:
            result["failed"].append(f"trouble, {n} gateways, {pairs} pair(s): the time was up")
            say(f"  left out: {result['failed'][-1]}")
            continue
        rows = tried(result, f"trouble, {n} gateways, {pairs} pair(s)", lambda n=n, pairs=pairs: trouble_part(o, n, pairs))
        result["trouble"] += rows or []


# --- words

def cell(v, digits=2):
    return "-" if v is None else f"{v:,.{digits}f}"


def median_rows(rows):
    """One row of several rounds: medians."""
    keys = {}
    for r in rows:
        keys.setdefault((r["form"], r["gateways"], r["period_ms"]), []).append(r)
    out = []
    for (form, n, period), rs in keys.items():
        good = [r for r in rs if "failed" not in r]
        if not good:
            out.append(rs[0])
            continue
        row = dict(good[0])
        for k in ("exchanges_per_s", "cpu_us", "cpu_part", "pair_cpu", "memory_per_gateway", "memory_without_reports", "connect_s",
                  "load_cpu_us", "answer_bytes", "others"):
            row[k] = statistics.median(r[k] for r in good)
        row["round_trip"] = {q: statistics.median(r["round_trip"][q] or 0 for r in good) for q in ("p50", "p99", "p999")}
        out.append(row)
    return out


def exchange_tables(rows):
    rows = median_rows(rows)
    out = ["Saturated, one stream an answer: exchanges (a poll and its answer) a second · the server's CPU µs an exchange", ""]
    sizes = sorted({r["gateways"] for r in rows})
    out += ["| Server | " + " | ".join(f"{n:,} gateways" for n in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    by = {(r["form"], r["gateways"], r["period_ms"]): r for r in rows}
    forms = list(dict.fromkeys(r["form"] for r in rows))
    for form in forms:
        cells = [by.get((form, n, 0)) for n in sizes]
        out.append(f"| {form} | " + " | ".join("-" if not r else "failed" if "failed" in r else
                                               f"{r['exchanges_per_s']:,.0f} · {r['cpu_us']:.1f}" for r in cells) + " |")
    out += ["", "One poll a second, 16 streams an answer:", "",
            "| Server | gateways | CPU of a core | inbound + outbound | round trip p50 | p99 | p99.9 ms | memory a gateway | threads |",
            "|---" * 9 + "|"]
    for form in forms:
        for n in sizes:
            r = by.get((form, n, 1000))
            if not r or "failed" in r:
                out.append(f"| {form} | {n:,} | {'failed' if r else '-'} |" + " |" * 6)
                continue
            t = r["round_trip"]
            pair = f"{100 * r['pair_cpu']:.1f} %" if r["pair_cpu"] else "-"
            out.append(f"| {form} | {n:,} | {100 * r['cpu_part']:.1f} % | {pair} | {cell(t['p50'])} | {cell(t['p99'])} | "
                       f"{cell(t['p999'])} | {r['memory_per_gateway'] / 1000:.1f} kB | {r['threads']} |")
    return out


def server_tables(rows):
    out = ["| Gateways | pairs | streams each | inbound + outbound | SLA processes | store | round trip p50 | p99 | p99.9 ms | lost | "
           "surge to control p50 | p99 ms | memory a gateway, all in |", "|---" * 13 + "|"]
    for r in rows:
        t, s, c = r["round_trip"], r["surge"], r["threads"]
        part = lambda *names: 100 * sum(v for k, v in c.items() if k.startswith(names))  # noqa: E731
        out.append(f"| {r['gateways']:,} | {r['pairs']} | {r['streams']} | {part('inbound', 'outbound'):.1f} % | "
                   f"{part('services'):.1f} % | {part('store'):.1f} % | "
                   f"{cell(t['p50'])} | {cell(t['p99'])} | {cell(t['p999'])} | {t['lost']} | {cell(s['p50'])} | "
                   f"{cell(s['p99'])} | {r['memory_per_gateway_all'] / 1000:,.0f} kB |")
    return out + (warnings_tables(rows) if rows else [])


def warnings_tables(rows):
    """Where early warnings wait, as the server itself sees it since its start."""
    out = ["", "The way of early warnings at the server, p50 · p99 in ms since its start (`weir debug threads`):", "",
           "| Gateways | pairs | " + " | ".join(w["part"] for w in rows[0]["warnings"]) + " |",
           "|---" * (2 + len(rows[0]["warnings"])) + "|"]
    for r in rows:
        out.append(f"| {r['gateways']:,} | {r['pairs']} | " +
                   " | ".join(f"{w['p50Us'] / 1000:.2f} · {w['p99Us'] / 1000:.2f}" for w in r["warnings"]) + " |")
    return out


def calm_p99(r):
    return pooled([x[w] for x in r["rounds"] for w in ("before", "after")], r["key"])["p99"]


def during_p99(r):
    return pooled([x["during"] for x in r["rounds"]], r["key"])["p99"]


def moved(r):
    """By how many percent the p99 of the others moved: all windows of the trouble together against all calm ones; and each round by
    itself, against the two calm ones beside it."""
    def by(rounds):
        one = r | {"rounds": rounds}
        calm, bad = calm_p99(one), during_p99(one)
        return 100 * (bad / calm - 1) if calm and bad else None
    return by(r["rounds"]), ", ".join(f"{v:+.0f} %" for v in (by([x]) for x in r["rounds"]) if v is not None)


def middle(r, get):
    return statistics.median(get(x["during"]) or 0 for x in r["rounds"])


def trouble_details(rows):
    """All that is asked of a calm server, while in trouble: medians of the rounds, with all gateways that are not the trouble."""
    out = ["", "All of it meanwhile (medians of the rounds; CPU of all threads of the server over the answers that came):", "",
           "| Trouble | gateways | pairs | answers a second | CPU µs an answer | round trip p50 | p99 | p99.9 ms | surge to control p50 | "
           "p99 ms | threads |", "|---" * 11 + "|"]
    for r in rows:
        if "rounds" not in r:
            continue
        t = lambda q: cell(middle(r, lambda w: w[r["key"]][q]))  # noqa: E731
        g = lambda q: cell(middle(r, lambda w: w["surge"][q]))  # noqa: E731
        cpu = middle(r, lambda w: 1e6 * sum(w["threads"].values()) / max(w["answers_per_s"], 1e-9))
        answers = cell(middle(r, lambda w: w["answers_per_s"]), 0)
        out.append(f"| {r['case']} | {r['gateways']:,} | {r['pairs']} | {answers} | {cell(cpu, 0)} | "
                   f"{t('p50')} | {t('p99')} | {t('p999')} | {g('p50')} | {g('p99')} | {middle(r, lambda w: w['thread_count']):.0f} |")
    return out


def trouble_tables(rows):
    out = ["| Trouble | gateways | pairs | p99 calm, ms | p99 of the others meanwhile | moved by | rounds | lost polls |",
           "|---" * 8 + "|"]
    for r in rows:
        who = f"| {r['case']} | {r['gateways']:,} | {r['pairs']} |"
        if "rounds" in r:
            b, d = calm_p99(r), during_p99(r)
            by, each = moved(r)
            out.append(f"{who} {cell(b)} | {cell(d)} | {'-' if by is None else f'{by:+.0f} %'} | {each} | "
                       f"{sum(x['during'][r['key']]['lost'] for x in r['rounds'])} |")
        else:
            deepest = max(r["queues"], key=lambda q: q["deepest"] / q["capacity"])
            out.append(f"{who} settled after {r['settled_s']:.2f} s | deepest mailbox {deepest['name']}: "
                       f"{deepest['deepest']} of {deepest['capacity']} | {r['memory_per_gateway_all'] / 1000:,.0f} kB a gateway | | |")
    return out + trouble_details(rows)


def goal(what, limit, value, good, words=""):
    """One row: @value None: not measured."""
    verdict = "not measured" if value is None else "met" if good(value) else "**missed**"
    return f"| {what} | {limit} | {words or ('-' if value is None else cell(value))} | {verdict} |"


def exchange_goals(rows):
    by = {(r["form"], r["gateways"], r["period_ms"]): r for r in median_rows(rows) if "failed" not in r}
    most = max((r["gateways"] for r in rows), default=0)
    paced = by.get(("weir monitor", most, 1000))
    out = [goal(f"inbound + outbound of one pair, {most:,} gateways at one poll a second", "≤ 50 % of a core",
                paced and 100 * paced["pair_cpu"], lambda v: v <= 50),
           goal(f"memory of a plaintext gateway outside its statistics, at {most:,}", "≤ 2 kB",
                paced and paced["memory_without_reports"] / 1000, lambda v: v <= 2)]
    for n in sorted({r["gateways"] for r in rows if r["gateways"] >= 100}):
        ours, theirs = by.get(("weir monitor", n, 0)), by.get(("libzmq ROUTER", n, 0))
        ratio = ours["exchanges_per_s"] / theirs["exchanges_per_s"] if ours and theirs else None
        out.append(goal(f"exchanges a second against libzmq, {n:,} gateways", "≥ 1.4 times", ratio, lambda v: v >= 1.4))
    return out


def server_goals(rows):
    one = {r["gateways"]: r["surge"]["p99"] for r in rows if r["pairs"] == 1}
    if not one:
        return []
    return [goal(f"surge to control p99, idle ({min(one):,} gateways)", "≤ 2 ms", one[min(one)], lambda v: v <= 2),
            goal(f"surge to control p99, full load ({max(one):,} gateways)", "≤ 20 ms", one[max(one)], lambda v: v <= 20)]


def trouble_goals(rows):
    out = []
    # Goals are of one pair, and of the largest number that was asked for.
    judged = [r for r in rows if r["pairs"] == min(x["pairs"] for x in rows)]
    for r in [r for r in judged if r["gateways"] == max(x["gateways"] for x in judged)]:
        if "rounds" in r:
            out.append(goal(f"{r['case']}: p99 of the others moves by", "< 10 %", moved(r)[0], lambda v: v < 10))
        else:
            full = [f"{q['refused']:,} at {q['name']}" for q in r["queues"] if q["refused"]]
            out.append(goal(f"{r['case']}: settled", "≤ 5 s, no queue full", r["settled_s"], lambda v, full=full: v <= 5 and not full,
                            f"{r['settled_s']:.2f} s, messages without room: {', '.join(full) or 'none'}"))
    return out


def goal_table(result):
    out = ["| Goal | | measured | |", "|---" * 4 + "|"]
    for part, goals in (("exchange", exchange_goals), ("server", server_goals), ("trouble", trouble_goals)):
        out += goals(result[part]) if result.get(part) else []
    if result.get("tls"):
        out.append(f"| memory that TLS adds to a gateway | stated apart | {result['tls']['resident'] / 1000:.1f} kB | |")
    return out


def pictures(result, folder):
    rows = median_rows(result.get("exchange", []))
    for period, key, title, name in ((0, "exchanges_per_s", "Exchanges a second, saturated", "monitor-exchanges.svg"),
                                     (1000, "cpu_part", "CPU of a core at one poll a second, 16 streams", "monitor-cpu.svg")):
        got = [r for r in rows if r["period_ms"] == period and "failed" not in r]
        if got:
            sizes = sorted({r["gateways"] for r in got})
            series = {f: [next((r[key] for r in got if r["form"] == f and r["gateways"] == n), None) for n in sizes]
                      for f in dict.fromkeys(r["form"] for r in got)}
            chart.bars(os.path.join(folder, name), title, [f"{n:,} gateways" for n in sizes], series)
    rows = result.get("trouble", [])
    most = max((r["gateways"] for r in rows), default=0)
    cases = [r for r in rows if "rounds" in r and r["gateways"] == most and r["pairs"] == min(x["pairs"] for x in rows)]
    if cases:
        chart.bars(os.path.join(folder, "monitor-trouble.svg"), "Round trip p99 of the others, ms", [r["case"] for r in cases],
                   {"calm": [calm_p99(r) for r in cases], "meanwhile": [during_p99(r) for r in cases]})


def write_tables(path, lines):
    begin, end = "<!-- bench-monitor: begin -->", "<!-- bench-monitor: end -->"
    with open(path, encoding="utf-8") as f:
        text = f.read()
    head, rest = text.split(begin, 1)
    with open(path, "w", encoding="utf-8") as f:
        f.write(head + begin + "\n" + "\n".join(lines) + "\n" + end + rest.split(end, 1)[1])


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true")
    p.add_argument("--parts", default="exchange,server,trouble")
    p.add_argument("--sizes", default="")
    p.add_argument("--pairs", default="1,2", help="of the real server; 1,2")
    p.add_argument("--rounds", type=int, default=0)
    p.add_argument("--seconds", type=float, default=0)
    p.add_argument("--minutes", type=float, default=0, help="nothing that would end after that is begun; 13, with --matrix 20")
    p.add_argument("--trouble-gateways", default="", help="each of these numbers in turn; 1200 (200 when quick)")
    p.add_argument("--trouble-pairs", default="", help="with each of these numbers of pairs; 1")
    p.add_argument("--trouble-rounds", type=int, default=0, help="3; 2 with --matrix")
    p.add_argument("--trouble-seconds", type=float, default=0, help="of one window; 4; 2.5 with --matrix")
    p.add_argument("--duels", type=int, default=-1, help="more rounds of the saturated exchange, against libzmq only; 3")
    p.add_argument("--matrix", action="store_true", help="all troubles at all sizes and pairs; one round of the exchange")
    p.add_argument("--json")
    p.add_argument("--images")
    p.add_argument("--write", help="put the tables between the marks of this file")
    o = p.parse_args()
    if o.matrix:
        o.trouble_gateways, o.trouble_pairs = o.trouble_gateways or "10,100,1000,10000", o.trouble_pairs or "1,2"
        o.rounds, o.minutes = o.rounds or 1, o.minutes or 20
        o.trouble_rounds, o.trouble_seconds = o.trouble_rounds or 2, o.trouble_seconds or 2.5
    o.minutes = o.minutes or 13
    o.trouble_pairs = o.trouble_pairs or "1"
    o.trouble_rounds = o.trouble_rounds or (1 if o.quick else 3)
    o.trouble_seconds = o.trouble_seconds or 4
    o.duels = o.duels if o.duels >= 0 else 0 if o.quick else 3
    o.sizes = [int(n) for n in (o.sizes or ("10,100,1000" if o.quick else "10,100,1000,10000")).split(",")]
    o.rounds = o.rounds or (1 if o.quick else 2)
    o.seconds = o.seconds or (1 if o.quick else 2)
    numbers = lambda text: [int(n) for n in str(text).split(",")]  # noqa: E731
    o.trouble_gateways = numbers(o.trouble_gateways or (200 if o.quick else 1200))
    o.trouble_pairs = numbers(o.trouble_pairs)
    o.pairs = numbers(o.pairs)
    return o


def measure(o, parts, result):
    """Into @result, part by part, so that what is there can be written whatever becomes of the rest."""
    until = time.monotonic() + 60 * o.minutes
    if "server" in parts:
        server_part(o, result)
        result["tls"] = tried(result, "memory with TLS", tls_memory)
    if "exchange" in parts:
        result["exchange"] += tried(result, "exchange", lambda: exchange_part(o, 1, until)) or []
        result["exchange"] += tried(result, "duel", lambda: duel_part(o, until)) or []
    if "trouble" in parts:
        trouble_all(o, result, until)
    # Further rounds take the time that is left.
    for i in range(2, o.rounds + 1 if "exchange" in parts else 0):
        result["exchange"] += tried(result, "exchange", lambda i=i: exchange_part(o, i, until)) or []


def main():
    o = options()
    parts = o.parts.split(",")
    result = {"machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.release()}", "load_before": os.getloadavg()[0],
              "failed": [], "exchange": [], "server": [], "trouble": []}
    lines = [f"Measured {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, {result['machine']}, load average before "
             f"{result['load_before']:.1f}, {o.rounds} round(s) of {o.seconds:g} s.", ""]
    signal.signal(signal.SIGTERM, time_up)
    try:
        measure(o, parts, result)
    except TimeUp:
        result["failed"].append("what was left when it was ended from outside")
    if result["failed"]:
        lines += ["Not measured: " + "; ".join(result["failed"]) + ".", ""]
    lines += goal_table(result) + [""]
    for part, table in (("exchange", exchange_tables), ("server", server_tables), ("trouble", trouble_tables)):
        if result[part]:
            lines += table(result[part]) + [""]
    print("\n".join(lines), flush=True)
    if o.write and any(result[part] for part in parts):
        write_tables(o.write, lines[:-1])
    if o.json:
        with open(o.json, "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)
    if o.images:
        os.makedirs(o.images, exist_ok=True)
        pictures(result, o.images)
    if result["failed"] and not any(result[part] for part in parts):
        sys.exit(1)


def form_built(kind):
    """Whether gwserve has this rival: it says so at once when not."""
    with tempfile.TemporaryDirectory() as d:
        with subprocess.Popen([GWSERVE, "--form", kind, "--listen", f"127.0.0.1:{weirtest.free_port()}", "--state-dir", d, "--gateways",
                               "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as p:
            good = p.stdout.readline().startswith("listening")
            p.kill()
        return good


if __name__ == "__main__":
    main()
