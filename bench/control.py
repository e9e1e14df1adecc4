#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Promises beside other ways to keep them: in the simulator over many seeds, and on the real path.

  simulated  bench/control_sim.py's worlds under each scheme of `weir simulate`: none, static limits, sleds, parda, mclock, ours
             without server, without early warnings, and whole; and an oracle, as the floor
  real       bench/control_real.py: a device-like store behind two gateways, real clients; no control, static limits, qemu's and
             nbdkit's limiters, and Weir
  cost       what a decision takes in a gateway (bench/sched), and the plan over 1,000 gateways of 100 streams (bench/plan)

    bench/control.py [--quick] [--parts simulated,real,cost] [--seeds N] [--only NAME]... [--json FILE] [--images DIR] [--write FILE]

A goal is marked as met or missed, by how much, by this program. --write puts the tables between the marks of FILE. Binaries come from
$WEIR_BUILD.
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
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests/lib"))

import chart  # noqa: E402
import control_real  # noqa: E402
import control_sim as sim  # noqa: E402
import weirtest  # noqa: E402

BASELINES = [s for s in sim.SCHEMES if not s.startswith("weir")]


class Goals:
    """What was wanted, what was found, and whether that is enough."""

    def __init__(self):
        self.rows = []

    def add(self, what, goal, found, met, by="", floor=None):
        self.rows.append({"what": what, "goal": goal, "found": found, "met": bool(met), "by": by, "floor": floor})

    def at_most(self, what, value, limit, unit="", floor=None):
        self.add(what, f"≤ {limit:g}{unit}", f"{value:.3g}{unit}", value <= limit, f"by {value / limit - 1:+.0%}" if limit else "",
                 None if floor is None else f"{floor:.3g}{unit}")

    def at_least(self, what, value, limit, show="{:.3g}"):
        self.add(what, "≥ " + show.format(limit), show.format(value), value >= limit, f"by {value - limit:+.3f}")

    def table(self):
        out = ["| Measure | goal | found | |", "|---|---|---|---|"]
        for r in self.rows:
            floor = f" (floor {r['floor']})" if r["floor"] else ""
            out.append(f"| {r['what']} | {r['goal']} | {r['found']}{floor} | {'met' if r['met'] else '**missed** ' + r['by']} |")
        missed = sum(not r["met"] for r in self.rows)
        return out + ["", f"{len(self.rows) - missed} of {len(self.rows)} goals met, {missed} missed."]


class Simulated:
    def __init__(self, options):
        self.seeds = list(range(1, options.seeds + 1))
        self.hour_s = 600 if options.quick else 3600
        self.only = options.only
        self.goals, self.lines, self.data = Goals(), [], {}

    def run_all(self, pool):
        for name in ("neighbours", "events", "reservation", "fairness", "limit", "hour", "unknown", "many"):
            if self.only and name not in self.only:
                continue
            begin = time.monotonic()
            getattr(self, name)(pool)
            print(f"simulated: {name} took {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)

    def results(self, pool, documents, schemes, seeds=None):
        """{scheme: [one result a seed]}."""
        seeds = seeds or self.seeds
        done = pool.map(sim.run, [(documents, scheme, seed) for scheme in schemes for seed in seeds])
        return {scheme: [next(done) for _ in seeds] for scheme in schemes}

    def head(self, title, words, columns):
        self.lines += ["", f"### {title}", "", words, "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]

    # -- a victim beside bullies: p99 against alone, throughput against no control

    WANTED = {("mixed", 64): 1.1, ("64 KiB only", 64): 1.1, ("mixed", 8): 1.2, ("64 KiB only", 8): 1.4, ("mixed", 4): 1.3,
              ("64 KiB only", 4): 2.0, ("mixed", 2): 1.3, ("64 KiB only", 2): 2.0}

    def neighbours(self, pool):
        self.head("A victim beside bullies",
                  "p99 of the victim ÷ alone · throughput ÷ no control; medians over the seeds, in brackets the worst p99. The oracle is "
                  "no scheme but a floor.",
                  ["k, bullies", *sim.SCHEMES, sim.FLOOR])
        picture = {s: [] for s in sim.SCHEMES}
        groups = []
        for k in sim.KS:
            for sizes in sim.SIZES:
                cells = self.neighbour_cells(pool, k, sizes)
                self.lines.append(f"| {k}, {sizes} | " + " | ".join(
                    f"{c['p99']['median']:.2f} ({c['p99']['high']:.2f}) · {c['busy']:.2f}" for c in cells.values()) + " |")
                groups.append(f"{k}, {sizes.split()[0]}")
                for s in sim.SCHEMES:
                    picture[s].append(cells[s]["p99"]["median"])
                self.neighbour_goals(k, sizes, cells)
        self.data["neighbours"] = {"groups": groups, "series": picture}

    def neighbour_cells(self, pool, k, sizes):
        alone = self.results(pool, sim.bully_world(k, sizes, alone=True), ["none"])["none"]
        all_ = self.results(pool, sim.bully_world(k, sizes), [*sim.SCHEMES, sim.FLOOR])
        base = statistics.mean(sim.load(r, "db")["p99Us"] for r in alone)
        most = statistics.mean(sim.busy(r) for r in all_["none"])
        return {s: {"p99": sim.quartiles([sim.load(r, "db")["p99Us"] / base for r in rs]),
                    "ms": statistics.median(sim.load(r, "db")["p99Us"] for r in rs) / 1e3,
                    "busy": statistics.median(sim.busy(r) for r in rs) / most} for s, rs in all_.items()}

    def neighbour_goals(self, k, sizes, cells):
        ours = cells["weir"]
        if k == 1:
            keepers = [c["busy"] for s, c in cells.items() if c["ms"] <= sim.objective_ms(1) and s not in ("weir", sim.FLOOR)]
            best = max(keepers, default=0)
            kept = ours["ms"] <= sim.objective_ms(1)
            ms = sim.objective_ms(1)
            self.goals.add(f"k = 1, {sizes}: objective of {ms} ms kept, at the best throughput of all that keep it",
                           f"≥ {best:.2f}", f"{ours['ms']:.1f} ms at {ours['busy']:.2f}", kept and ours["busy"] >= best,
                           f"by {ours['busy'] - best:+.3f} of the throughput" if kept else "the objective")
            return
        self.goals.at_most(f"k = {k}, {sizes}: p99 ÷ alone", ours["p99"]["median"], self.WANTED[sizes, k],
                           floor=cells[sim.FLOOR]["p99"]["median"])
        self.goals.at_least(f"k = {k}, {sizes}: throughput ÷ no control", ours["busy"], 0.97, "{:.3f}")

    # -- something happens

    def events(self, pool):
        self.head("Something happens",
                  "Seconds outside the objective of 8 ms in the 20 s after it · seconds until it is kept for good (three in a row); "
                  "median over the seeds, in brackets the worst.", ["event", *sim.SCHEMES])
        for name, (documents, at, step) in sim.event_worlds().items():
            all_ = self.results(pool, documents, sim.SCHEMES)
            cells = {}
            for s, rs in all_.items():
                seen = [sim.outside(r, at, step, 8000, int(20 / step)) for r in rs]
                out = [n * step for n, _ in seen]
                back = [20.0 if b is None else b for _, b in seen]
                cells[s] = (statistics.median(out), statistics.median(back), max(back))
            def show(v):
                return "never" if v >= 20 else f"{v:.3g}"
            self.lines.append(f"| {name} | " + " | ".join(f"{o:.3g} · {show(b)} ({show(w)})" for o, b, w in cells.values()) + " |")
            limit = 0.1 if step < 1 else 3
            self.goals.at_most(f"{name}: seconds until the objective is kept again", cells["weir"][1], limit, " s")
            key, part = "p99UsBySecond" if step == 1 else "p99UsByInterval", slice(int((at - 5) / step), int((at + 20) / step))
            self.data.setdefault("events", {})[name] = {s: sim.load(all_[s][0], "db")[key][part] for s in all_}

    def reservation(self, pool):
        self.head("A reservation", f"{sim.RESERVED} IOPS reserved of a target of 8 servers, beside two that take what they get: whole "
                  "seconds in which 99 % of it were served.", ["", *sim.SCHEMES])
        for kill in (False, True):
            all_ = self.results(pool, sim.reservation_world(kill), sim.SCHEMES)
            cells = {s: statistics.mean(sim.reservation_met(r) for r in rs) for s, rs in all_.items()}
            self.lines.append(f"| {'server killed at 25 s, back at 45 s' if kill else 'steady'} | " +
                              " | ".join(f"{v:.1%}" for v in cells.values()) + " |")
            self.goals.at_least("reservation met" + (", server killed" if kill else ""), cells["weir"], 0.99, "{:.1%}")
            lost = sum(x["lost"] for r in all_["weir"] for x in r["loads"])
            if kill:
                self.goals.add("server killed: I/O errors", "0", str(lost), lost == 0)

    def fairness(self, pool):
        self.head("Fairness by weight", "Device time by weight, least ÷ most: weights 1 (behind both gateways), 2 (behind one) and 4 "
                  "(behind the other), sizes and kinds mixed.", sim.SCHEMES)
        cells = {s: statistics.median(sim.fairness(r) for r in rs)
                 for s, rs in self.results(pool, sim.fairness_world(), sim.SCHEMES).items()}
        self.lines.append("| " + " | ".join(f"{v:.3f}" for v in cells.values()) + " |")
        self.goals.at_least("fairness by weight over gateways", cells["weir"], 0.98, "{:.3f}")

    def limit(self, pool):
        rs = self.results(pool, sim.limit_world(), ["weir"])["weir"]
        errors = [sim.limit_errors(r) for r in rs]
        self.goals.at_most("limit over two gateways: steady error", max(abs(e["steady"]) for e in errors) * 100, 0.1, " %")
        self.goals.at_most("limit over two gateways: first second above", max(e["first"] for e in errors) * 100, 1.1, " %")

    def hour(self, pool):
        self.head("On and off", f"{self.hour_s} s with bullies on and off at lengths that never meet, and stalls within the promise: whole "
                  "seconds inside the objective of 8 ms.", sim.SCHEMES)
        seeds = self.seeds[:1 if self.hour_s > 600 else 2]
        cells = {}
        for s, rs in self.results(pool, sim.hour_world(self.hour_s), sim.SCHEMES, seeds).items():
            cells[s] = statistics.mean(sim.load(r, "db")["windowsMet"] / sim.load(r, "db")["windows"] for r in rs)
        self.lines.append("| " + " | ".join(f"{v:.2%}" for v in cells.values()) + " |")
        self.goals.at_least("windows inside the objective, on and off", cells["weir"], 0.99, "{:.2%}")

    def unknown(self, pool):
        for k in (16, 64):
            rs = self.results(pool, sim.wrong_k_world(k), ["weir"])["weir"]
            self.goals.at_most(f"k = {k} begun with 32 at each gateway: p99 from 10 s to 20 s ÷ that after a minute",
                               statistics.median(sim.wrong_k(r) for r in rs), 1.1)

    def many(self, pool):
        two = self.results(pool, sim.bully_world(64, "64 KiB only"), ["weir"])["weir"]
        many = self.results(pool, sim.bully_world(64, "64 KiB only", gateways=32), ["weir"])["weir"]
        p99 = [statistics.median(sim.load(r, "db")["p99Us"] for r in rs) for rs in (many, two)]
        busy = [statistics.median(sim.busy(r) for r in rs) for rs in (many, two)]
        self.goals.at_most("32 gateways ÷ two: p99 of the victim", p99[0] / p99[1], 1.05)
        self.goals.at_least("32 gateways ÷ two: throughput", busy[0] / busy[1], 0.97, "{:.3f}")


def decision_cost(goals):
    """bench/sched."""
    out = subprocess.run([os.path.join(weirtest.BUILD, "bench/bench-sched"), "500000"], capture_output=True, text=True, check=True).stdout
    for name, ns in re.findall(r"^(.*?) +([\d.]+) ns an I/O$", out, re.M):
        goals.at_most(f"scheduler, {name}: processor time of an I/O", float(ns), 1000, " ns")


def plan_cost(goals):
    """bench/plan at 1,000 gateways of 100 streams; within capacity, and overcommitted."""
    for words, args in (("within capacity", []), ("overcommitted", ["1000", "100", "50", "5", "64"])):
        out = subprocess.run([os.path.join(weirtest.BUILD, "bench/bench-plan"), *args], capture_output=True, text=True, check=True).stdout
        m = re.search(r"then ([\d.]+) ms .*: ([\d.]+) % of a core", out)
        goals.at_most(f"plan for 1,000 gateways × 100 streams, {words}", float(m[1]), 10, " ms")
        goals.at_most(f"of a core at one plan a second, {words}", float(m[2]), 5, " %")


def pictures(simulated, folder):
    os.makedirs(folder, exist_ok=True)
    if "neighbours" in simulated.data:
        d = simulated.data["neighbours"]
        chart.bars(os.path.join(folder, "control-neighbours.svg"), "p99 of the victim ÷ alone (k, bullies' sizes), cut off at 8",
                   d["groups"], {s: [min(v, 8) for v in vs] for s, vs in d["series"].items()})
    for i, (name, series) in enumerate(simulated.data.get("events", {}).items()):
        n = max(len(v) for v in series.values())
        chart.lines(os.path.join(folder, f"control-event-{i + 1}.svg"),
                    f"{name}: p99 of the victim (ms, log), seed 1; objective 8 ms",
                    [25 * j / n - 5 for j in range(n)], {s: [v / 1e3 for v in vs] for s, vs in series.items()}, level=8)


def write_tables(path, lines):
    begin, end = "<!-- bench-control: begin -->", "<!-- bench-control: end -->"
    with open(path, encoding="utf-8") as f:
        head, rest = f.read().split(begin, 1)
    with open(path, "w", encoding="utf-8") as f:
        f.write(head + begin + "\n" + "\n".join(lines) + "\n" + end + rest.split(end, 1)[1])


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="few seeds, short runs")
    p.add_argument("--parts", default="simulated,real,cost")
    p.add_argument("--seeds", type=int, default=0)
    p.add_argument("--only", action="append",
                   help="of the simulated part: neighbours, events, reservation, fairness, limit, hour, unknown, many")
    p.add_argument("--json")
    p.add_argument("--images")
    p.add_argument("--write")
    o = p.parse_args()
    o.seeds = o.seeds or (2 if o.quick else 5)
    return o


def main():
    o = options()
    begin = time.monotonic()
    parts = o.parts.split(",")
    simulated = Simulated(o)
    lines = [f"Measured {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, {platform.machine()}, {os.cpu_count()} cores, "
             f"{platform.release()}, load average before {os.getloadavg()[0]:.1f}; {'--quick, ' if o.quick else ''}{o.seeds} seeds."]
    if "simulated" in parts:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            simulated.run_all(pool)
    goals = simulated.goals
    real = control_real.measure(o.quick, goals) if "real" in parts else []
    if "cost" in parts:
        decision_cost(goals)
        plan_cost(goals)
    lines += ["", "### Goals", "", *goals.table(), *simulated.lines, *real]
    lines += ["", f"All of it took {time.monotonic() - begin:.0f} s."]
    print("\n".join(lines), flush=True)
    if o.write:
        write_tables(o.write, lines)
    if o.images:
        pictures(simulated, o.images)
    if o.json:
        with open(o.json, "w", encoding="utf-8") as f:
            json.dump({"goals": goals.rows, "data": simulated.data}, f, indent=1)


if __name__ == "__main__":
    main()
