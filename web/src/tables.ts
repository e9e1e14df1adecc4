// SPDX-License-Identifier: Apache-2.0
// The tables and lists of the page.
import { Action, Agreement, AgreementStatus, Event_, Gateway, Stream, Target, Verdict } from "./api";
import { Row, append, make, setClass, setText } from "./dom";
import * as format from "./format";
import { draw, span } from "./graph";
import { History, keyOf } from "./history";

export function verdictClass(v: string): string {
  const tone: Record<string, string> = { met: "good", failing: "bad", excess: "warn", exempt: "warn" };
  return `badge ${tone[v] ?? ""}`.trim();
}

export function verdictWords(v: Verdict): string {
  return v === "none" ? "no promise" : v;
}

// A cell with a main line and a small one beneath it; the label stands before it on narrow screens.
class Cell {
  readonly node: HTMLTableCellElement;
  private readonly main: HTMLElement;
  private readonly small: HTMLElement;

  constructor(label: string, className = "") {
    this.node = make("td", className);
    this.node.dataset.label = label;
    this.main = make("span");
    this.small = make("small");
    append(this.node, this.main, this.small);
  }

  set(text: string, small = "", mainClass = ""): void {
    setText(this.main, text);
    setClass(this.main, mainClass);
    setText(this.small, small);
  }
}

class SplitBar {
  readonly node = make("div");
  private readonly words = make("span");
  private readonly held = make("i", "held");
  private readonly target = make("i", "target");

  constructor() {
    append(this.node, this.words, append(make("div", "bar"), this.held, this.target));
  }

  set(s: Stream): void {
    const held = s.latency.held.meanUs, target = s.latency.target.meanUs, whole = Math.max(s.latency.total.meanUs, held + target);
    this.held.style.width = whole ? `${(100 * held) / whole}%` : "0";
    this.target.style.width = whole ? `${(100 * target) / whole}%` : "0";
    setText(this.words, whole ? `held ${format.latency(held)} · target ${format.latency(target)}` : "no I/O");
    this.node.title = `mean of the last second: held by Weir ${format.latency(held)}, in the target ${format.latency(target)}, ` +
      `total ${format.latency(s.latency.total.meanUs)}`;
  }
}

export function streamRow(history: History, choose: (key: string) => void) {
  return (key: string): Row<Stream> => {
    const node = make("tr");
    const name = make("td", "name"), button = make("button"), small = make("small");
    button.type = "button";
    button.addEventListener("click", () => choose(key));
    append(name, button, small);
    const iops = new Cell("IOPS", "n"), p50 = new Cell("p50", "n"), p99 = new Cell("p99", "n");
    const time = make("td"), split = new SplitBar();
    time.dataset.label = "time";
    append(time, split.node);
    const agreement = new Cell("agreement"), verdict = new Cell("verdict"), control = new Cell("control", "why");
    const spark = make("canvas", "spark"), graph = make("td");
    append(graph, spark);
    append(node, name, iops.node, p50.node, p99.node, time, agreement.node, verdict.node, control.node, graph);
    return {
      node,
      update(s: Stream): void {
        const throttled = s.control.since !== null;
        setClass(node, s.verdict === "failing" ? "failing" : throttled ? "throttled" : "");
        setText(button, s.key);
        setText(small, [s.tenant, `${s.target} via ${s.gateway}`].filter(Boolean).join(" · "));
        const wanted = s.demandIops > s.iops * 1.05 + 1 ? `asked ${format.count(s.demandIops)}` : "";
        iops.set(format.count(s.iops), wanted || `${format.bytes(s.readBytesPerSecond + s.writeBytesPerSecond)}/s`);
        p50.set(format.latency(s.latency.total.p50Us));
        p99.set(format.latency(s.latency.total.p99Us), `max ${format.latency(s.latency.total.maxUs)}`);
        split.set(s);
        agreement.set(s.agreement ?? "none", s.objective ? format.objective(s.objective) : "");
        const harm = s.harmPercent > 0 ? `${Math.round(s.harmPercent)} % of the harm` : "";
        verdict.set(verdictWords(s.verdict), harm, verdictClass(s.verdict));
        updateControl(control, s);
        const points = history.of(key);
        spark.setAttribute("role", "img");
        spark.setAttribute("aria-label", `p99 now ${format.latency(s.latency.total.p99Us)}`);
        draw(spark, points, Date.now(), {
          value: (p) => p.p99Us, goal: (p) => p.goalUs, color: throttled || s.harmPercent > 0 ? "--bully" : "--victim",
          format: format.latency, seconds: span(points, Date.now(), 120), title: "",
        });
      },
    };
  };
}

function updateControl(cell: Cell, s: Stream): void {
  const desired = format.rates(s.control.desired), applied = format.rates(s.control.applied);
  if (s.control.since !== null) {
    const pending = desired !== applied ? ` (in force: ${applied})` : "";
    cell.set(`${desired}${pending}`, s.control.reason ?? "", "badge warn");
  } else if (s.heldBy) {
    cell.set("own limit", s.heldBy);
  } else {
    cell.set("–");
  }
}

// Victims first, then who is held back, then by name: an order that does not dance.
export function streamOrder(a: Stream, b: Stream): number {
  const rank = (s: Stream) => s.verdict === "failing" ? 0 : s.control.since !== null ? 1 : s.harmPercent > 0 ? 2 : s.objective ? 3 : 4;
  return rank(a) - rank(b) || (keyOf(a) < keyOf(b) ? -1 : 1);
}

function appliesTo(selector: Record<string, string>): string {
  const parts = Object.entries(selector).filter(([, v]) => v).map(([k, v]) => `${k} ${v}`);
  return parts.length ? parts.join(", ") : "every stream";
}

function promises(a: Agreement): string {
  const parts = a.spec.objectives.map(format.objective);
  if (format.limited(a.spec.reservation))
    parts.push(`at least ${format.rates(a.spec.reservation)}`);
  if (format.limited(a.spec.limit))
    parts.push(`at most ${format.rates(a.spec.limit)}`);
  return parts.join("; ") || "–";
}

export function agreementRow(): Row<Agreement> {
  const node = make("tr");
  const name = new Cell("agreement", "name"), who = new Cell("for"), promise = new Cell("promise", "why");
  const iops = new Cell("IOPS", "n"), judged = new Cell("judged latency", "n"), verdict = new Cell("verdict");
  const kept = make("td"), keptWords = make("span"), bar = make("span", "meter"), fill = make("i");
  kept.dataset.label = "windows kept";
  append(kept, keptWords, append(bar, fill));
  append(node, name.node, who.node, promise.node, iops.node, judged.node, verdict.node, kept);
  return {
    node,
    update(a: Agreement): void {
      const s: AgreementStatus | null = a.status ?? null;
      setClass(node, s?.verdict === "failing" ? "failing" : "");
      name.set(a.name, `version ${a.version}`);
      who.set(appliesTo(a.spec.appliesTo), s ? `${s.streams} stream${s.streams === 1 ? "" : "s"}` : "");
      promise.set(promises(a));
      iops.set(s ? format.count(s.iops) : "–", s && s.demandIops > s.iops ? `asked ${format.count(s.demandIops)}` : "");
      judged.set(s && s.latencyUs ? format.latency(s.latencyUs) : "–");
      verdict.set(s ? verdictWords(s.verdict) : "unknown", "", verdictClass(s?.verdict ?? ""));
      const target = a.spec.compliance?.target ?? null;
      const windows = s ? `${s.windows} window${s.windows === 1 ? "" : "s"}` : "";
      const words = s && s.windows ? `${format.percent(s.windowsMet, s.windows)} of ${windows}` : "none judged yet";
      setText(keptWords, target === null ? words : `${words}, goal ${target} %`);
      const share = s && s.windows ? s.windowsMet / s.windows : 0;
      fill.style.width = `${100 * share}%`;
      setClass(bar, target !== null && s && s.windows && 100 * share < target ? "meter missed" : "meter");
    },
  };
}

export function gatewayRow(): Row<Gateway> {
  const node = make("tr");
  const name = new Cell("gateway", "name"), state = new Cell("state"), streams = new Cell("streams", "n");
  const trip = new Cell("round trip", "n"), lost = new Cell("polls lost", "n"), controls = new Cell("controls");
  append(node, name.node, state.node, streams.node, trip.node, lost.node, controls.node);
  return {
    node,
    update(g: Gateway): void {
      name.set(g.name, [g.software, g.address].filter(Boolean).join(" · "));
      const well = g.state === "admitted";
      state.set(g.state, well ? "" : `seen ${format.clock(g.lastSeen)}`, `badge ${well ? "good" : "bad"}`);
      streams.set(String(g.streams));
      trip.set(format.latency(g.roundTripUs));
      lost.set(String(g.pollsLost), `of ${format.count(g.polls)}`);
      controls.set(g.epoch.desired === g.epoch.applied ? "in force" : "on their way");
    },
  };
}

export function targetRow(): Row<Target> {
  const node = make("tr");
  const name = new Cell("target", "name"), seen = new Cell("gateways see"), probe = new Cell("the probe sees");
  append(node, name.node, seen.node, probe.node);
  return {
    node,
    update(t: Target): void {
      name.set(t.name, t.uri);
      const errors = t.errors ? `, ${format.count(t.errors)} errors` : "";
      seen.set(`${format.count(t.iops)} IOPS, p99 ${format.latency(t.latency.target.p99Us)}`,
        `${t.inflight} in flight on ${t.connections} connection${t.connections === 1 ? "" : "s"}${errors}`);
      if (!t.probe)
        probe.set("not probed yet");
      else if (t.probe.reachable)
        probe.set("reachable", `read in ${format.latency(t.probe.latencyUs)}, ${format.bytes(t.probe.size)}, ` +
          format.clock(t.probe.at), "badge good");
      else
        probe.set("not reachable", t.probe.error ?? "", "badge bad");
    },
  };
}

export function actionItem(): Row<Action> {
  const node = make("li"), time = make("time"), badge = make("span"), head = make("span"), why = make("p");
  append(node, time, badge, head, why);
  return {
    node,
    update(a: Action): void {
      time.dateTime = a.at;
      setText(time, format.clock(a.at));
      setClass(badge, `badge ${!a.enforced ? "" : a.verb === "release" || a.verb === "lift" ? "good" : "warn"}`.trim());
      setText(badge, a.enforced ? a.verb : `${a.verb}: ${a.decision}`);
      setText(head, ` ${a.bully} ${format.rates(a.from)} → ${format.rates(a.to)}`);
      setText(why, a.reason);
    },
  };
}

export function eventItem(): Row<Event_> {
  const node = make("li"), time = make("time"), badge = make("span"), head = make("span"), text = make("p");
  append(node, time, badge, head, text);
  return {
    node,
    update(e: Event_): void {
      time.dateTime = e.at;
      setText(time, format.clock(e.at));
      setClass(badge, `badge ${e.severity === "error" ? "bad" : e.severity === "warning" ? "warn" : ""}`.trim());
      setText(badge, e.kind);
      setText(head, ` ${e.subject}`);
      setText(text, e.text);
    },
  };
}
