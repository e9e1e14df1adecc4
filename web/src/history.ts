// SPDX-License-Identifier: Apache-2.0
// The last minutes of each stream, kept in the page: one point a second, bounded.
import { Sample, Stream, items } from "./api";

export const KEEP_SECONDS = 300;
const MAX_STREAMS = 400;

export interface Point { at: number; iops: number; p99Us: number; goalUs: number | null; limitIops: number | null }

export class History {
  private readonly points = new Map<string, Point[]>();
  private readonly asked = new Set<string>();

  of(key: string): Point[] {
    return this.points.get(key) ?? [];
  }

  add(streams: Stream[], now: number): void {
    const seen = new Set<string>();
    for (const s of streams.slice(0, MAX_STREAMS)) {
      const key = keyOf(s);
      seen.add(key);
      const list = this.points.get(key) ?? [];
      list.push({
        at: now, iops: s.iops, p99Us: s.latency.total.p99Us, goalUs: s.objective?.latencyUs ?? null,
        limitIops: s.control.applied.iops ?? s.control.desired.iops,
      });
      trim(list, now);
      this.points.set(key, list);
    }
    for (const key of this.points.keys()) {
      if (!seen.has(key))
        this.points.delete(key);
    }
  }

  // What was before the page was opened, once a stream, from the database.
  async backfill(s: Stream): Promise<void> {
    const key = keyOf(s);
    if (this.asked.has(key))
      return;
    this.asked.add(key);
    const from = new Date(Date.now() - KEEP_SECONDS * 1000).toISOString();
    const path = `/streams/${encodeURIComponent(s.host)}/${encodeURIComponent(s.volume)}/history`;
    const samples = await items<Sample & { gateway: string }>(`${path}?step=1s&from=${encodeURIComponent(from)}`);
    const list = this.points.get(key) ?? [];
    const first = list.length ? list[0].at : Date.now();
    const older = samples.filter((x) => x.gateway === s.gateway).map((x): Point => ({
      at: Date.parse(x.at), iops: x.iops, p99Us: x.p99Us, goalUs: s.objective?.latencyUs ?? null, limitIops: null,
    })).filter((p) => p.at < first - 500);
    const all = older.concat(list);
    trim(all, Date.now());
    this.points.set(key, all);
  }
}

export function keyOf(s: Stream): string {
  return `${s.key} ${s.gateway}`;
}

function trim(list: Point[], now: number): void {
  while (list.length && (list[0].at < now - KEEP_SECONDS * 1000 || list.length > KEEP_SECONDS + 60))
    list.shift();
}
