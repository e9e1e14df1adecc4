// SPDX-License-Identifier: Apache-2.0
// The stream of server-sent events: reconnects, and says when the news is old.
import { Action, AgreementLive, Event_, Stream } from "./api";

export type LiveState = "connecting" | "live" | "stale";

export interface Listener {
  streams(list: Stream[]): void;
  agreements(list: AgreementLive[]): void;
  action(a: Action): void;
  event(e: Event_): void;
  state(state: LiveState, seconds: number): void;
  connected(): void;
}

const STALE_MS = 4000;

export class Live {
  private source: EventSource | null = null;
  private last = Date.now();
  private heard = false;
  private retryMs = 1000;

  constructor(private readonly to: Listener) {
    this.connect();
    setInterval(() => this.watch(), 1000);
  }

  private connect(): void {
    const source = new EventSource("/api/v1/live");
    this.source = source;
    const on = <T>(name: string, take: (data: T) => void) =>
      source.addEventListener(name, (e) => {
        this.last = Date.now();
        this.heard = true;
        this.retryMs = 1000;
        take(JSON.parse((e as MessageEvent<string>).data) as T);
      });
    source.addEventListener("open", () => this.to.connected());
    on<Stream[]>("streams", (list) => {
      this.to.streams(list);
      this.to.state("live", 0);
    });
    on<AgreementLive[]>("agreements", (list) => this.to.agreements(list));
    on<Action>("action", (a) => this.to.action(a));
    on<Event_>("event", (e) => this.to.event(e));
    source.addEventListener("error", () => {
      // The browser comes back by itself unless the server answered with an error.
      if (source.readyState === EventSource.CLOSED && this.source === source) {
        this.source = null;
        setTimeout(() => this.connect(), this.retryMs);
        this.retryMs = Math.min(this.retryMs * 2, 15000);
      }
    });
  }

  private watch(): void {
    const age = Date.now() - this.last;
    if (age > STALE_MS)
      this.to.state(this.heard ? "stale" : "connecting", Math.round(age / 1000));
  }
}
