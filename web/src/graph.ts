// SPDX-License-Identifier: Apache-2.0
// Graphs on canvas: a line over the last minutes, and the goal as a dashed one.
import { Point } from "./history";

export interface Look {
  value: (p: Point) => number;
  goal: (p: Point) => number | null;
  color: string; // name of a custom property
  format: (n: number) => string;
  seconds: number;
  title: string; // "" : no axes and no words, only the line
}

// A whole number of minutes that holds what there is to show.
export function span(points: Point[], now: number, longest: number): number {
  const seconds = points.length ? (now - points[0].at) / 1000 : 0;
  return Math.min(longest, Math.max(60, Math.ceil(seconds / 60) * 60));
}

function css(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// 1, 2 or 5 times a power of ten, not below n.
function round_up(n: number): number {
  const power = Math.pow(10, Math.floor(Math.log10(Math.max(n, 1))));
  for (const step of [1, 2, 5, 10]) {
    if (n <= step * power)
      return step * power;
  }
  return 10 * power;
}

function prepare(canvas: HTMLCanvasElement): CanvasRenderingContext2D | null {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (width === 0 || height === 0)
    return null;
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const g = canvas.getContext("2d");
  if (g) {
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  }
  return g;
}

function axes(g: CanvasRenderingContext2D, look: Look, left: number, width: number, height: number, top: number): void {
  g.font = "11px system-ui, sans-serif";
  g.lineWidth = 1;
  for (const part of [0, 0.5, 1]) {
    const y = Math.round(height - part * (height - 8)) - 0.5;
    g.strokeStyle = css("--grid");
    g.beginPath();
    g.moveTo(left, y);
    g.lineTo(width, y);
    g.stroke();
    g.fillStyle = css("--quiet");
    g.textAlign = "right";
    g.textBaseline = part === 0 ? "bottom" : "middle";
    g.fillText(look.format(top * part), left - 6, y);
  }
  g.textAlign = "left";
  g.textBaseline = "top";
  g.fillText(`−${Math.round(look.seconds / 60)} min`, left, height + 3);
  g.textAlign = "right";
  g.fillText("now", width, height + 3);
  g.textAlign = "center";
  g.fillText(look.title, (left + width) / 2, height + 3);
}

export function draw(canvas: HTMLCanvasElement, points: Point[], now: number, look: Look): void {
  const g = prepare(canvas);
  if (!g)
    return;
  const width = canvas.clientWidth, height = canvas.clientHeight - (look.title ? 18 : 2), left = look.title ? 62 : 1;
  const since = now - look.seconds * 1000;
  const shown = points.filter((p) => p.at >= since);
  let top = 1;
  for (const p of shown)
    top = Math.max(top, look.value(p), look.goal(p) ?? 0);
  top = round_up(top * 1.05);
  const x = (at: number) => left + ((at - since) / (now - since)) * (width - left - 2);
  const y = (n: number) => height - (n / top) * (height - 8);
  if (look.title)
    axes(g, look, left, width, height, top);
  const line = (value: (p: Point) => number | null, color: string, dash: number[], weight: number) => {
    g.strokeStyle = css(color);
    g.lineWidth = weight;
    g.lineJoin = "round";
    g.setLineDash(dash);
    g.beginPath();
    let last = 0;
    for (const p of shown) {
      const n = value(p);
      if (n === null) {
        last = 0;
        continue;
      }
      // A gap in the news is a gap in the line.
      if (last && p.at - last < 5000)
        g.lineTo(x(p.at), y(n));
      else
        g.moveTo(x(p.at), y(n));
      last = p.at;
    }
    g.stroke();
    g.setLineDash([]);
  };
  line(look.goal, "--goal", [5, 4], look.title ? 1.5 : 1);
  line(look.value, look.color, [], look.title ? 2 : 1.5);
}
