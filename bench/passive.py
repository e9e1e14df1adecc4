#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What it costs that a gateway meters and could schedule, where nobody has a contract and nothing is short: goal 2 % of the data path.

The gateway runs under callgrind with no limit, no share and no server, before bench/ramnbd, loaded by bench/nbdload. Of all instructions
those are taken out that a plain relay would not do, by the file of each line (so also what the compiler put into other functions):
*control* is gate, scheduler, cost and rules, which only contracts need; *counting* is meters and histograms, which the product is for
whether or not somebody has a contract. The goal speaks of control. Two runs of
different length are subtracted, so that start and end do not count. Beside them the same load runs without callgrind, and the kernel's
clock says how much of the worker's time is its own and how much the kernel's, which is where a relay spends it. So the part of the data
path is the part of the instructions times the part of the time in which they run.

    bench/passive.py [--seconds S] [--write FILE]      $WEIR_BUILD has the programs
"""
import argparse
import glob
import os
import re
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests/lib"))
sys.path.insert(0, os.path.join(ROOT, "bench"))

import gateway as bench  # noqa: E402
import weirtest  # noqa: E402

COUNTING = re.compile(r"src/(qos/(meter|hist)|gateway/(stream|ledger\w*))\.[ch]$")
CONTROL = re.compile(r"src/(qos/\w+|gateway/(rule|share|surge))\.[ch]$")  # what is not counting
GOAL = 0.02
OWN_SECONDS = 3  # the kernel's clock counts hundredths
BEGIN, END = "<!-- passive: begin -->", "<!-- passive: end -->"


class Stage:
    """A gateway without any contract before a RAM server."""

    def __init__(self, world, *before):
        storage = weirtest.Process(world, "ramnbd", [bench.RAM])
        port = int(storage.wait_line(r"^ramnbd: listening on (\S+)$").group(1).rsplit(":", 1)[1])
        state, path = world.path("state"), world.path("gateway.conf")
        os.mkdir(state, 0o700)
        with open(path, "w") as f:
            f.write(f"[listener l]\naddress = 127.0.0.1:0\ntarget = t\n[target t]\nuri = nbd://127.0.0.1:{port}\n")
        self.process = weirtest.Process(world, "gateway", [*before, weirtest.GATEWAY, "--state-dir", state, "--socket",
                                                           os.path.join(state, "s"), "--config", path])
        self.address = self.process.wait_line(r"^weir-gateway: listening on (\S+) for target").group(1)

    def end(self):
        self.process.popen.terminate()
        self.process.popen.wait(60)


def counted(path):
    """{file: instructions} of one of callgrind's files, by the file of each line."""
    names, sums, file = {}, {}, None
    with open(path) as f:
        called = False
        for line in f:
            m = re.match(r"(fl|fi|fe|cfi|cfl|calls)=(?:\((\d+)\))?\s*(.*)", line)
            if m and m.group(1) == "calls":
                called = True  # the next line is what the callee took, which counts there
            elif m:
                if m.group(3):
                    names[m.group(2)] = m.group(3).strip()
                if m.group(1) in ("fl", "fi", "fe"):
                    file = names[m.group(2)]
            elif line[:1].isdigit() or line[:1] in "+-*":
                if not called:
                    sums[file] = sums.get(file, 0) + int(line.split()[1])
                called = False
    return sums


def instructions(row, seconds):
    """(all, those that control, those that count), each per I/O."""
    seen = []
    for length in (seconds, 3 * seconds):
        with weirtest.World() as w:
            out = w.path("callgrind.out")
            stage = Stage(w, "valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}.%p")
            ios = bench.load(stage.address, row, length)["all_ios"]
            stage.end()
            total = control = counting = 0
            for path in glob.glob(f"{out}.*"):
                for file, n in counted(path).items():
                    total += n
                    if COUNTING.search(os.path.normpath(file)):
                        counting += n
                    elif CONTROL.search(os.path.normpath(file)):
                        control += n
            seen.append((ios, total, control, counting))
    few, many = seen
    return [(b - a) / (many[0] - few[0]) for a, b in zip(few[1:], many[1:])]


def times(pid):
    """User and system ticks of a process and its children."""
    user = system = 0
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path) as f:
                head, rest = f.read().rsplit(")", 1)
        except OSError:
            continue
        field = rest.split()
        if pid in (int(head.split()[0]), int(field[1])):
            user, system = user + int(field[11]), system + int(field[12])
    return user, system


def own_part(row, seconds):
    """The part of the gateway's time that is not the kernel's."""
    with weirtest.World() as w:
        stage = Stage(w)
        before = times(stage.process.popen.pid)
        bench.load(stage.address, row, seconds)
        after = times(stage.process.popen.pid)
        stage.end()
    user, system = after[0] - before[0], after[1] - before[1]
    return user / max(user + system, 1)


def write(path, text):
    with open(path) as f:
        old = f.read()
    if BEGIN not in old or END not in old:
        sys.exit(f"{path} has no {BEGIN} and {END}")
    with open(path, "w") as f:
        f.write(old.split(BEGIN)[0] + BEGIN + "\n" + text + END + old.split(END, 1)[1])


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--seconds", type=float, default=1.0, help="of the shorter run under callgrind")
    p.add_argument("--write", metavar="FILE", help="put the table between its marks there")
    a = p.parse_args()
    out = [f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, no limit, no share, no server.", "",
           "| Load | instructions an I/O, user space | control | counting | time in user space | control, of the data path | | counting |",
           "|---|---|---|---|---|---|---|---|"]
    for row in bench.INSTRUCTIONS:
        print(row.name, file=sys.stderr, flush=True)
        total, control, counting = instructions(row, a.seconds)
        own = own_part(row, OWN_SECONDS)
        part, counted_part = control / total * own, counting / total * own
        out.append(f"| {row.name} | {total:,.0f} | {control:,.0f} | {counting:,.0f} | {100 * own:.0f} % | {100 * part:.1f} % | "
                   + ("met |" if part <= GOAL else f"**missed** by {100 * (part - GOAL):.1f} % |") + f" {100 * counted_part:.1f} % |")
    text = "\n".join(out) + "\n"
    print(text, flush=True)
    if a.write:
        write(a.write, text)


if __name__ == "__main__":
    main()
