// SPDX-License-Identifier: Apache-2.0
// The dashboard: takes what the server says each second and shows it.
import { Action, Agreement, AgreementLive, Event_, Gateway, Status, Stream, Target, get, items } from "./api";
import { Keyed, append, byId, make, setClass, setHidden, setText } from "./dom";
import * as format from "./format";
import { draw, span } from "./graph";
import { History, KEEP_SECONDS, keyOf } from "./history";
import { Live, LiveState } from "./live";
import { actionItem, agreementRow, eventItem, gatewayRow, streamOrder, streamRow, targetRow } from "./tables";

const SHOWN_STREAMS = 200;
const SHOWN_LOG = 100;

// One of the two big graphs: a stream's p99 beside its goal, and its IOPS beside its limit.
class Panel {
  readonly node = make("div", "panel");
  private readonly words = make("div");
  private readonly title = make("h3");
  private readonly latency = make("canvas");
  private readonly iops = make("canvas");

  constructor(private readonly role: "victim" | "bully") {
    setClass(this.words, `role ${role}`);
    append(this.node, this.words, this.title, this.latency, this.iops);
    for (const canvas of [this.latency, this.iops])
      canvas.setAttribute("role", "img");
  }

  private relation(s: Stream): string {
    if (this.role === "victim")
      return s.verdict === "failing" ? "promise broken now" : s.objective ? "promise at stake" : "chosen";
    return s.control.since !== null ? "held back" : s.harmPercent > 0 ? "hurts it most" : "shares its target";
  }

  show(s: Stream | null, history: History): void {
    setHidden(this.node, s === null);
    if (!s)
      return;
    setText(this.words, this.relation(s));
    const p99 = format.latency(s.latency.total.p99Us);
    const goal = s.objective ? `, promised ${format.objective(s.objective)}` : "";
    setText(this.title, `${s.key}: p99 ${p99}${goal}; ${format.count(s.iops)} IOPS`);
    const points = history.of(keyOf(s)), now = Date.now(), seconds = span(points, now, KEEP_SECONDS);
    const color = this.role === "victim" ? "--victim" : "--bully";
    this.latency.setAttribute("aria-label", `p99 latency of ${s.key} over the last minutes, now ${p99}${goal}`);
    this.iops.setAttribute("aria-label", `IOPS of ${s.key} over the last minutes, now ${format.count(s.iops)}`);
    draw(this.latency, points, now, {
      value: (p) => p.p99Us, goal: (p) => p.goalUs, color, format: format.latency, seconds,
      title: s.objective ? "p99 latency, dashed: promised" : "p99 latency",
    });
    draw(this.iops, points, now, {
      value: (p) => p.iops, goal: (p) => p.limitIops, color, format: (n) => `${format.count(n)}/s`, seconds,
      title: s.control.since !== null ? "IOPS, dashed: allowed" : "IOPS",
    });
  }
}

class Page {
  private readonly history = new History();
  private streams: Stream[] = [];
  private agreements = new Map<string, Agreement>();
  private actions: Action[] = [];
  private events: Event_[] = [];
  private status: Status | null = null;
  private state: LiveState = "connecting";
  private chosen: string | null = null;
  private lastVictim: string | null = null;
  private lastBully: string | null = null;
  private readonly victim = new Panel("victim");
  private readonly bully = new Panel("bully");
  private readonly filter = byId("filter") as HTMLInputElement;
  private readonly streamRows = new Keyed<Stream>(bodyOf("stream-table"), streamRow(this.history, (key) => this.choose(key)));
  private readonly agreementRows = new Keyed<Agreement>(bodyOf("agreement-table"), agreementRow);
  private readonly gatewayRows = new Keyed<Gateway>(bodyOf("gateway-table"), gatewayRow);
  private readonly targetRows = new Keyed<Target>(bodyOf("target-table"), targetRow);
  private readonly actionRows = new Keyed<Action>(byId("actions"), actionItem);
  private readonly eventRows = new Keyed<Event_>(byId("events"), eventItem);
  private readonly chips = new Keyed<[string, string]>(byId("chips"), () => {
    const node = make("span");
    return { node, update: ([text, tone]) => { setText(node, text); setClass(node, `chip ${tone}`.trim()); } };
  });
  private readonly numbers = new Keyed<[string, string, string]>(byId("numbers"), (label) => {
    const node = make("div"), value = make("b");
    append(node, value, make("span", "quiet", label));
    return { node, update: ([, text, tone]) => { setText(value, text); setClass(node, `number ${tone}`.trim()); } };
  });

  start(): void {
    append(byId("focus-panels"), this.victim.node, this.bully.node);
    this.filter.addEventListener("input", () => this.showStreams());
    window.addEventListener("resize", () => this.showStreams());
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.showStreams());
    new Live({
      streams: (list) => this.takeStreams(list),
      agreements: (list) => this.takeAgreements(list),
      action: (a) => { this.actions = [a, ...this.actions].slice(0, SHOWN_LOG); this.showLogs(); },
      event: (e) => { this.events = [e, ...this.events].slice(0, SHOWN_LOG); this.showLogs(); },
      state: (state, seconds) => this.takeState(state, seconds),
      connected: () => void this.loadLogs(),
    });
    this.showAll();
    const poll = async () => {
      await this.poll();
      setTimeout(() => void poll(), 3000);
    };
    void poll();
  }

  // What is not worth an event each second.
  private async poll(): Promise<void> {
    const results = await Promise.allSettled([
      get<Status>("/status").then((s) => { this.status = s; }),
      items<Agreement>("/agreements").then((list) => { this.agreements = new Map(list.map((a) => [a.name, a])); }),
      items<Gateway>("/gateways").then((list) => {
        this.gatewayRows.show(list, (g) => g.id || g.name);
        setText(byId("gateway-note"), list.length ? "" : "None yet. Start weir-gateway with --server and it appears by itself.");
      }),
      items<Target>("/targets").then((list) => {
        this.targetRows.show(list, (t) => t.name);
        setText(byId("target-note"), list.length ? "" : "None yet: gateways bring them.");
      }),
    ]);
    if (results.some((r) => r.status === "fulfilled"))
      this.showAll();
  }

  private async loadLogs(): Promise<void> {
    const [actions, events] = await Promise.allSettled([
      items<Action>(`/actions?limit=${SHOWN_LOG}`), items<Event_>(`/events?limit=${SHOWN_LOG}`),
    ]);
    if (actions.status === "fulfilled")
      this.actions = merge(this.actions, actions.value, actionKey);
    if (events.status === "fulfilled")
      this.events = merge(this.events, events.value, eventKey);
    this.showLogs();
  }

  private takeState(state: LiveState, seconds: number): void {
    this.state = state;
    const banner = byId("stale");
    setHidden(banner, state !== "stale");
    setClass(byId("streams").parentElement as HTMLElement, state === "stale" ? "stale" : "");
    if (state === "stale")
      setText(banner, `Stale: the server has said nothing for ${seconds} s. What you see is old; trying again …`);
    this.showHeader();
  }

  private takeStreams(list: Stream[]): void {
    this.streams = list.sort(streamOrder);
    this.history.add(list, Date.now());
    this.showStreams();
  }

  private takeAgreements(list: AgreementLive[]): void {
    for (const live of list) {
      const a = this.agreements.get(live.name);
      if (a)
        a.status = live.status;
    }
    this.showAgreements();
  }

  private choose(key: string): void {
    this.chosen = this.chosen === key ? null : key;
    this.showStreams();
    byId("focus").scrollIntoView({ block: "nearest" });
  }

  // The chosen stream, or the one that suffers now, or the last that did, or any with an objective.
  private findVictim(): Stream | null {
    const find = (want: (s: Stream) => boolean) => this.streams.find(want) ?? null;
    return (this.chosen ? find((s) => keyOf(s) === this.chosen) : null) ?? find((s) => s.verdict === "failing") ??
      find((s) => keyOf(s) === this.lastVictim) ?? find((s) => s.objective !== null) ?? find(() => true);
  }

  private findBully(victim: Stream | null): Stream | null {
    const others = this.streams.filter((s) => s !== victim);
    const most = others.filter((s) => s.harmPercent > 0 || s.control.since !== null)
      .sort((a, b) => b.harmPercent - a.harmPercent || b.iops - a.iops)[0];
    return most ?? others.find((s) => keyOf(s) === this.lastBully) ??
      others.filter((s) => s.target === victim?.target).sort((a, b) => b.iops - a.iops)[0] ?? null;
  }

  private showFocus(): void {
    const victim = this.findVictim(), bully = this.findBully(victim);
    if (victim && !this.chosen)
      this.lastVictim = keyOf(victim);
    if (bully)
      this.lastBully = keyOf(bully);
    setHidden(byId("focus"), victim === null);
    this.victim.show(victim, this.history);
    this.bully.show(bully, this.history);
    for (const s of [victim, bully]) {
      if (s)
        this.history.backfill(s).catch(() => undefined); // the graph fills by itself
    }
  }

  private showStreams(): void {
    const wanted = this.filter.value.trim().toLowerCase();
    const fits = (s: Stream) => !wanted || [s.key, s.tenant, s.target, s.gateway, s.agreement, s.verdict]
      .some((text) => text !== null && text.toLowerCase().includes(wanted));
    const found = this.streams.filter(fits), shown = found.slice(0, SHOWN_STREAMS);
    this.streamRows.show(shown, keyOf);
    const more = found.length - shown.length;
    setText(byId("stream-note"), more > 0 ? `and ${more} more; filter, or ask weir top` :
      found.length ? "" : wanted ? "No stream fits the filter." : "No stream yet: connect a host to a gateway.");
    this.showFocus();
    this.showHeader();
  }

  private showAgreements(): void {
    const list = [...this.agreements.values()];
    this.agreementRows.show(list, (a) => a.name);
    setText(byId("agreement-note"), list.length ? "" : "None yet: weir apply -f agreement.yaml");
  }

  private showLogs(): void {
    this.actionRows.show(this.actions, actionKey);
    this.eventRows.show(this.events, eventKey);
    setText(byId("actions-note"), this.actions.length ? "" : "Nothing had to be done.");
    setText(byId("events-note"), this.events.length ? "" : "Nothing happened yet.");
  }

  private showHeader(): void {
    const s = this.status, chips: [string, string][] = [];
    chips.push(this.state === "live" ? ["Live", "live good"] : this.state === "stale" ? ["Stale", "live warn"] : ["Connecting …", "live"]);
    if (s) {
      const on = s.enforcement.on;
      chips.push(s.observe ? ["Observing only", "warn"] : on ? ["Enforcement on", "good"] : ["Enforcement off", "bad"]);
      if (!s.store.ok)
        chips.push([`Database: ${s.store.error ?? "not available"}`, "bad"]);
      if (s.store.dropped > 0)
        chips.push([`${format.count(s.store.dropped)} records dropped`, "warn"]);
      setText(byId("version"), s.version);
    }
    this.chips.show(chips, ([text]) => text.split(" ")[0].replace(/Live|Stale|Connecting/, "state"));
    const failing = this.streams.filter((x) => x.verdict === "failing").length;
    const throttled = this.streams.filter((x) => x.control.since !== null).length;
    const total = this.streams.reduce((n, x) => n + x.iops, 0);
    const flow = this.streams.reduce((n, x) => n + x.readBytesPerSecond + x.writeBytesPerSecond, 0);
    this.numbers.show([
      ["streams", String(this.streams.length), ""],
      ["I/O per second", format.count(total), ""],
      ["throughput", `${format.bytes(flow)}/s`, ""],
      ["promises failing now", String(failing), failing ? "alarm" : ""],
      ["streams held back", String(throttled), throttled ? "care" : ""],
      ["gateways", s ? `${s.gateways}${s.gatewaysLost ? ` (${s.gatewaysLost} lost)` : ""}` : "–", s?.gatewaysLost ? "alarm" : ""],
    ], ([label]) => label);
    document.title = failing ? `(${failing} failing) Weir` : "Weir";
  }

  private showAll(): void {
    this.showStreams();
    this.showAgreements();
    this.showLogs();
  }
}

function bodyOf(table: string): HTMLElement {
  return (byId(table) as HTMLTableElement).tBodies[0];
}

function actionKey(a: Action): string {
  return [a.at, a.verb, a.bully, a.decision].join(" ");
}

function eventKey(e: Event_): string {
  return [e.at, e.kind, e.subject].join(" ");
}

// What came live and what the database has, newest first, each once.
function merge<T extends { at: string }>(a: T[], b: T[], key: (item: T) => string): T[] {
  const all = new Map<string, T>();
  for (const item of [...a, ...b])
    all.set(key(item), item);
  return [...all.values()].sort((x, y) => (x.at < y.at ? 1 : x.at > y.at ? -1 : 0)).slice(0, SHOWN_LOG);
}

new Page().start();
