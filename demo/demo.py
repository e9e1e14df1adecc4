# SPDX-License-Identifier: Apache-2.0
"""The noisy neighbour, before and after.

One storage device (demo/device.c in nbdkit: 8 I/Os at once, one queue for all tenants), one weir-gateway before it, one
weir-server, and two unmodified clients (fio over NBD): `db`, a database-like tenant with an agreement, and `batch`, a tenant
that takes all it can get. Three phases: db alone; both, with enforcement off; both, with enforcement on.

All figures of the closing table are the clients' own: fio logs each I/O's completion, and percentiles are taken from
those logs, not from Weir. The exit status is 0 only when the promise was really broken in the unprotected phase
and really kept in the last one.

DEMO_SECONDS=N makes it end by itself after about N seconds; without it, on a terminal, the protected phase goes on
until Ctrl-C so that the web page can be looked at.
"""

import json
import os
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tests", "lib"))
import weirtest  # noqa: E402

VICTIM, BULLY = "db", "batch"
VICTIM_IOPS = 500           # what db asks for
OBJECTIVE_MS = 20           # p99, promised while db asks for at most PROMISED_IOPS
PROMISED_IOPS = 1000
# About 3,900 IOPS in all: slow enough for two cores to play storage, gateway, server and both clients.
DEVICE = {"parallel": 8, "service": 2000, "per-kib": 4, "jitter": 50}
BULLY_DEPTH = 192
# Of each phase, the part that is judged: after clients and control have had time to move.
SETTLE = 0.45

AGREEMENT = {
    "kind": "Agreement", "name": "oltp-gold",
    "appliesTo": {"volume": VICTIM},
    "objectives": [{"percentile": 99, "latency": f"{OBJECTIVE_MS}ms", "whileIops": PROMISED_IOPS}],
    "reservation": {"iops": VICTIM_IOPS},
    "weight": 200,
}


class Screen:
    """Colour and redrawing on a terminal, plain lines elsewhere."""

    def __init__(self):
        self.tty = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.drawn = 0

    def paint(self, code, text):
        return f"\033[{code}m{text}\033[0m" if self.tty else text

    def say(self, text=""):
        self.drawn = 0
        print(text, flush=True)

    def title(self, text):
        self.say()
        self.say(self.paint("1;36", f"== {text}"))

    def live(self, lines):
        if self.tty:
            if self.drawn:
                sys.stdout.write(f"\033[{self.drawn}F\033[J")
            sys.stdout.write("\n".join(lines) + "\n")
            self.drawn = len(lines)
        else:
            sys.stdout.write(" | ".join(line.strip() for line in lines[1:] if line.strip()) + "\n")
        sys.stdout.flush()


def fio(world, name, uri, *args):
    """One fio client that logs every I/O: (process, path of its latency log)."""
    log = world.path(name)
    argv = ["fio", f"--name={name}", "--ioengine=nbd", f"--uri={uri}", "--time_based", "--runtime=86400", "--size=192m",
            "--randrepeat=0", "--norandommap", f"--write_lat_log={log}", "--log_unix_epoch=1", "--output=/dev/null", *args]
    return weirtest.Process(world, name, argv), f"{log}_clat.1.log"


def read_log(path):
    """[(completed at, seconds since 1970; latency in ms)] of each I/O, from fio's own log."""
    rows = []
    with open(path) as f:
        for line in f:
            parts = line.split(",")
            rows.append((int(parts[0]) / 1000.0, int(parts[1]) / 1e6))
    return rows


def window(rows, begin, end):
    inside = sorted(ms for at, ms in rows if begin <= at < end)
    if not inside or end <= begin:
        return {"iops": 0.0, "p50": 0.0, "p99": 0.0, "max": 0.0, "n": 0}
    pick = lambda q: inside[min(len(inside) - 1, int(q * len(inside)))]  # noqa: E731
    return {"iops": len(inside) / (end - begin), "p50": pick(0.50), "p99": pick(0.99), "max": inside[-1],
            "n": len(inside)}


def us(value):
    if value is None:
        return "-"
    return f"{value / 1000:.2f}ms" if value < 1e6 else f"{value / 1e6:.2f}s"


def stream_lines(server, screen, phase, left):
    lines = [f"  {'stream':<22}{'IOPS':>8}{'p50':>10}{'p99':>10}{'held p99':>10}{'target p99':>12}  {'verdict':<9}control"]
    for s in sorted(server.items("/streams"), key=lambda s: s["volume"] != VICTIM):
        lat, limit = s["latency"], s["control"]["applied"]["iops"]
        verdict = screen.paint({"met": "32", "failing": "1;31", "excess": "33"}.get(s["verdict"], "0"),
                               f"{s['verdict']:<9}")
        lines.append(f"  {s['key']:<22}{s['iops']:>8}{us(lat['total']['p50Us']):>10}{us(lat['total']['p99Us']):>10}"
                     f"{us(lat['held']['p99Us']):>10}{us(lat['target']['p99Us']):>12}  {verdict}"
                     + (f"held to {limit} IOPS" if limit else "free"))
    lines.append(f"  {phase}, {left:.0f} s to go" if left < 1e6 else f"  {phase}")
    return lines


def watch(server, screen, phase, seconds):
    """Show the live table until the phase is over."""
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        if left <= 0:
            return
        screen.live(stream_lines(server, screen, phase, left))
        time.sleep(min(1.0 if screen.tty else 2.0, max(left, 0.01)))


def set_enforcement(server, on):
    status, _, body = server.request("PUT", "/api/v1/enforcement", {"on": on})
    if status != 200:
        raise SystemExit(f"enforcement could not be set: {status} {body}")


def preferred(port):
    return f"127.0.0.1:{port}" if not weirtest.can_connect(port) else "127.0.0.1:0"


def start_parts(world, screen):
    plugin = os.path.join(weirtest.BUILD, "demo", "nbdkit-device-plugin.so")
    storage = world.nbdkit("-t", "256", plugin, *[f"{k}={v}" for k, v in DEVICE.items()],
                           f"export={VICTIM}", f"export={BULLY}")
    server = world.server(http=preferred(7480), control=preferred(7400))
    gateway = world.gateway(target=storage.uri, server=server, name="demo-gateway", listen=preferred(10810))
    screen.say(f"  storage   {storage.uri}  (nbdkit, a device that does {DEVICE['parallel']} I/Os at once)")
    screen.say(f"  gateway   nbd://{gateway.address}")
    screen.say(f"  server    {server.http}  " + screen.paint("1", "<- open this in a browser"))
    weirtest.wait_until(lambda: any(g["state"] == "admitted" for g in server.items("/gateways")),
                        "the gateway to be discovered and admitted")
    screen.say("  the gateway was discovered and admitted by itself")
    return storage, server, gateway


def start_victim(world, gateway):
    return fio(world, VICTIM, gateway.uri(VICTIM), "--rw=randrw", "--rwmixread=70", "--bs=8k", "--iodepth=16",
               f"--rate_iops={VICTIM_IOPS * 7 // 10},{VICTIM_IOPS * 3 // 10}")


def start_bully(world, gateway):
    return fio(world, BULLY, gateway.uri(BULLY), "--rw=randread", "--bs=16k", f"--iodepth={BULLY_DEPTH}")


def closing_table(screen, phases, victim, bully):
    """Prints the table; returns {phase: victim's figures}."""
    screen.title("What the clients measured (fio's own log of each I/O)")
    head = f"  {'':<26}{'db IOPS':>9}{'db p50':>10}{'db p99':>10}{'batch IOPS':>12}{'batch share':>13}   promise p99 <= {OBJECTIVE_MS} ms"
    screen.say(head)
    found = {}
    for name, begin, end in phases:
        judged = begin + (end - begin) * SETTLE
        v, b = window(victim, judged, end), window(bully, judged, end)
        share = 100 * b["iops"] / (v["iops"] + b["iops"]) if v["n"] else 0
        kept = v["n"] > 0 and v["p99"] <= OBJECTIVE_MS
        word = screen.paint("32", "kept") if kept else screen.paint("1;31", "BROKEN")
        screen.say(f"  {name:<26}{v['iops']:>9.0f}{v['p50']:>8.2f}ms{v['p99']:>8.2f}ms{b['iops']:>12.0f}{share:>12.0f}%   {word}")
        found[name] = {**v, "kept": kept, "bully_iops": b["iops"]}
    return found


def closing_actions(server, screen):
    actions = server.items("/actions?limit=200")
    screen.title(f"What Weir did, and why ({len(actions)} actions; the first and the last)")
    shown = actions if len(actions) <= 8 else actions[:4] + actions[-4:]
    for a in sorted(shown, key=lambda a: int(a["id"])):
        mark = "sent" if a["enforced"] else a["decision"]
        screen.say(f"  {a['at'][11:19]} {a['verb']:<9}[{mark}] {a['reason']}")
    return actions


def names_both(action):
    return action["bully"].endswith("/" + BULLY) and (action["victim"] or "").endswith("/" + VICTIM)


def verdict(screen, found, actions, batch, alone, hurt, kept):
    """0 when the story is true, with each claim said. @batch: its latency at the end, as the server has it. Whether it was
    held back by a share of the window alone or by a rate as well is the server's to decide."""
    total, target = batch["total"]["p99Us"] or 0, batch["target"]["p99Us"] or 0
    claims = [
        (found[alone]["kept"], f"alone, db had p99 {found[alone]['p99']:.2f} ms"),
        (not found[hurt]["kept"], f"beside batch and without Weir the promise was broken: p99 {found[hurt]['p99']:.2f} ms"),
        (found[kept]["kept"], f"with Weir it was kept beside the same neighbour: p99 {found[kept]['p99']:.2f} ms"),
        (found[kept]["iops"] >= 0.95 * VICTIM_IOPS, f"db got its {VICTIM_IOPS} IOPS ({found[kept]['iops']:.0f})"),
        (found[kept]["bully_iops"] > 0, f"batch went on, with {found[kept]['bully_iops']:.0f} IOPS"),
        (0 < target < total / 2, f"what batch has to wait it waits at the gateway: p99 {us(total)}, {us(target)} of them in the storage"),
        (len(actions) > 0 and all(map(names_both, actions)), "each action, taken or not, names batch as the bully and db as the victim"),
    ]
    screen.title("Verdict")
    for true, words in claims:
        screen.say(f"  {screen.paint('32', 'yes') if true else screen.paint('1;31', 'NO ')}  {words}")
    return 0 if all(true for true, _ in claims) else 1


def run(world, screen, seconds, linger):
    screen.say(screen.paint("1", "Weir: a noisy neighbour, before and after"))
    storage, server, gateway = start_parts(world, screen)
    server.put("/agreements/oltp-gold", AGREEMENT)
    screen.say(f"  agreement oltp-gold: {VICTIM} has p99 <= {OBJECTIVE_MS} ms while it asks for at most {PROMISED_IOPS} IOPS")
    set_enforcement(server, False)
    alone, hurt, kept = "db alone", "beside batch, no Weir", "beside batch, with Weir"
    lengths = {alone: seconds * 0.22, hurt: seconds * 0.28, kept: seconds * 0.50}
    phases, clients = [], {}

    def phase(name, words):
        screen.title(words)
        begin = time.time()
        watch(server, screen, name, lengths[name])
        phases.append((name, begin, time.time()))

    clients[VICTIM] = start_victim(world, gateway)
    phase(alone, f"1. db alone: {VICTIM_IOPS} IOPS, 8 KiB, 70 % reads")
    clients[BULLY] = start_bully(world, gateway)
    phase(hurt, f"2. batch arrives with {BULLY_DEPTH} I/Os in flight; enforcement is off")
    set_enforcement(server, True)
    phase(kept, "3. enforcement on: the server finds the bully and tells the gateway what to allow")
    if linger:
        screen.title(f"The protected phase goes on; look at {server.http} . Ctrl-C ends it.")
        try:
            watch(server, screen, "until Ctrl-C", float("inf"))
        except KeyboardInterrupt:
            screen.say()
    batch = next(s["latency"] for s in server.items("/streams") if s["volume"] == BULLY)
    for process, _ in clients.values():
        process.stop(signal.SIGINT)
    logs = {name: read_log(path) for name, (_, path) in clients.items()}
    found = closing_table(screen, phases, logs[VICTIM], logs[BULLY])
    actions = closing_actions(server, screen)
    code = verdict(screen, found, actions, batch, alone, hurt, kept)
    screen.say(f"\n  The web address was {server.http}; `make demo` without DEMO_SECONDS keeps it open until Ctrl-C.")
    return code


def main():
    wanted = os.environ.get("DEMO_SECONDS", "")
    screen = Screen()
    try:
        seconds = float(wanted) if wanted else 60.0
    except ValueError:
        print(f"DEMO_SECONDS: found \"{wanted}\", expected a number of seconds", file=sys.stderr)
        return 2
    if seconds < 20:
        print("DEMO_SECONDS: expected at least 20: below that no phase can settle", file=sys.stderr)
        return 2
    linger = not wanted and sys.stdout.isatty()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        # Starting and ending take about four seconds of what was asked for.
        with weirtest.World() as world:
            return run(world, screen, max(seconds - 4, 16), linger)
    except KeyboardInterrupt:  # before the last phase; all that was started has ended
        screen.say("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
