// SPDX-License-Identifier: Apache-2.0
// Numbers and instants as people read them.
import { Objective, Rates } from "./api";

export function latency(us: number | null): string {
  if (us === null)
    return "–";
  if (us < 1000)
    return `${us} µs`;
  if (us < 1e6)
    return `${(us / 1e3).toFixed(us < 1e4 ? 2 : us < 1e5 ? 1 : 0)} ms`;
  return `${(us / 1e6).toFixed(2)} s`;
}

export function count(n: number): string {
  if (n < 10000)
    return String(Math.round(n));
  if (n < 1e6)
    return `${(n / 1e3).toFixed(n < 1e5 ? 1 : 0)}k`;
  return `${(n / 1e6).toFixed(1)}M`;
}

export function bytes(n: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++)
    n /= 1024;
  return `${n >= 100 || i === 0 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

// Whether there is anything in it.
export function limited(r: Rates | null): r is Rates {
  return r !== null && [r.iops, r.iopsRead, r.iopsWrite, r.bandwidth, r.bandwidthRead, r.bandwidthWrite].some(Boolean);
}

export function rates(r: Rates): string {
  const parts = [];
  if (r.iops !== null)
    parts.push(`${count(r.iops)} IOPS`);
  if (r.bandwidth !== null)
    parts.push(`${bytes(r.bandwidth)}/s`);
  for (const [n, what] of [[r.iopsRead, "reads"], [r.iopsWrite, "writes"]] as const)
    if (n)
      parts.push(`${count(n)} ${what}/s`);
  for (const [n, what] of [[r.bandwidthRead, "reads"], [r.bandwidthWrite, "writes"]] as const)
    if (n)
      parts.push(`${bytes(n)}/s of ${what}`);
  return parts.length ? parts.join(", ") : "unlimited";
}

export function objective(o: Objective): string {
  const what = o.percentile === "mean" || o.percentile === 0 ? "mean" : `p${o.percentile}`;
  const when = o.whileIops === null ? "" : ` while ≤ ${count(o.whileIops)} IOPS`;
  return `${what} ≤ ${latency(o.latencyUs)}${when}`;
}

export function clock(at: string): string {
  const t = new Date(at);
  return isNaN(t.getTime()) ? at : t.toLocaleTimeString(undefined, { hour12: false });
}

export function percent(part: number, whole: number): string {
  const p = whole > 0 ? (100 * part) / whole : 0;
  return `${p >= 99.95 || p === 0 ? Math.round(p) : p.toFixed(1)} %`;
}
