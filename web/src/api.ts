// SPDX-License-Identifier: Apache-2.0
// What the server says, as far as the page shows it (docs/openapi.yaml).

export interface LatencyPart { meanUs: number; p50Us: number; p99Us: number; maxUs: number }
export interface Latency { held: LatencyPart; target: LatencyPart; total: LatencyPart }
export interface Rates {
  iops: number | null; iopsRead?: number | null; iopsWrite?: number | null;
  bandwidth: number | null; bandwidthRead?: number | null; bandwidthWrite?: number | null;
}
export interface Objective { percentile: number | "mean"; latencyUs: number; whileIops: number | null }
export type Verdict = "none" | "met" | "failing" | "exempt" | "excess" | "idle";

export interface Stream {
  key: string; host: string; volume: string; tenant: string | null; target: string; gateway: string;
  demandIops: number; iops: number; readBytesPerSecond: number; writeBytesPerSecond: number; heldNow: number;
  latency: Latency; heldBy: string | null; burstCreditPercent: number | null;
  agreement: string | null; objective: Objective | null; judgedLatencyUs: number | null; verdict: Verdict; harmPercent: number;
  control: { desired: Rates; applied: Rates; since: string | null; reason: string | null };
}

export interface AgreementStatus {
  verdict: Verdict; streams: number; iops: number; demandIops: number; latencyUs: number; windows: number; windowsMet: number;
}
export interface Agreement {
  name: string; version: number; status?: AgreementStatus | null;
  spec: {
    appliesTo: Record<string, string>; objectives: Objective[]; reservation: Rates | null; limit: Rates | null;
    compliance?: { target: number | null } | null;
  };
}
export interface AgreementLive { name: string; status: AgreementStatus }

export interface Action {
  id?: string; at: string; verb: string; enforced: boolean; decision: string; victim: string | null; bully: string;
  agreement: string | null; from: Rates; to: Rates; harmPercent: number; reason: string;
}
export interface Event_ { id?: string; at: string; severity: "info" | "warning" | "error"; kind: string; subject: string; text: string }

export interface Gateway {
  name: string; id: string; state: string; address: string | null; software: string; streams: number; lastSeen: string;
  polls: number; pollsLost: number; roundTripUs: number; epoch: { desired: number; applied: number };
}
export interface Target {
  name: string; uri: string; gateways: string[]; connections: number; inflight: number; errors: number; iops: number;
  latency: Latency;
  probe: { reachable: boolean; size: number; latencyUs: number; at: string; error: string | null } | null;
}
export interface Status {
  version: string; gateways: number; gatewaysLost: number; streams: number; throttled: number;
  agreements: number; agreementsFailing: number;
  enforcement: { on: boolean }; observe: boolean; store: { ok: boolean; error: string | null; queued: number; dropped: number };
}
export interface Sample { at: string; iops: number; p99Us: number }

export async function get<T>(path: string): Promise<T> {
  const answer = await fetch("/api/v1" + path, { headers: { Accept: "application/json" }, cache: "no-store" });
  if (!answer.ok)
    throw new Error(`${path}: ${answer.status}`);
  return await answer.json() as T;
}

export async function items<T>(path: string): Promise<T[]> {
  return (await get<{ items: T[] }>(path)).items;
}
