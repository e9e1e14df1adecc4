# SPDX-License-Identifier: Apache-2.0
"""Grouped bars and lines as SVG, with nothing but strings; readable in light and dark."""
import math

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 860, 380, 70, 60, 60
COLOURS = ["#1f6feb", "#54aeff", "#8b949e", "#d29922", "#bc4c00", "#8250df", "#1a7f37", "#000000"]


def short(v):
    if v >= 1000:
        return f"{v / 1000:.3g}k"
    return f"{v:.3g}"


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def nice_top(v):
    step = 10 ** (len(str(int(max(v, 1)))) - 1)
    for k in (1, 2, 2.5, 5, 10):
        if v <= k * step:
            return k * step
    return v


def bars(path, title, groups, series):
    """@series: {name: [value or None of each group]}."""
    most = max((v for vs in series.values() for v in vs if v is not None), default=1)
    top = nice_top(most) if most >= 1 else most * 1.1 or 1
    plot_w, plot_h = WIDTH - LEFT - 20, HEIGHT - TOP - BOTTOM
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
           f'<text x="{LEFT}" y="22" font-size="16" font-weight="bold">{escape(title)}</text>']
    x = LEFT
    for i, name in enumerate(series):
        out.append(f'<rect x="{x}" y="34" width="11" height="11" fill="{COLOURS[i % len(COLOURS)]}"/>'
                   f'<text x="{x + 15}" y="44">{escape(name)}</text>')
        x += 32 + 7 * len(name)
    for k in range(5):
        v, y = top * k / 4, TOP + plot_h * (1 - k / 4)
        out.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - 20}" y2="{y:.1f}" stroke="#d0d7de"/>'
                   f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(v)}</text>')
    group_w = plot_w / max(len(groups), 1)
    bar_w = group_w * 0.8 / max(len(series), 1)
    for g, group in enumerate(groups):
        x = LEFT + g * group_w
        out.append(f'<text x="{x + group_w / 2:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{escape(group)}</text>')
        for i, (name, values) in enumerate(series.items()):
            v = values[g]
            if v is None:
                continue
            h, bx = plot_h * min(v / top, 1), x + group_w * 0.1 + i * bar_w
            out.append(f'<rect x="{bx:.1f}" y="{TOP + plot_h - h:.1f}" width="{bar_w - 2:.1f}" height="{h:.1f}" '
                       f'fill="{COLOURS[i % len(COLOURS)]}"><title>{escape(name)}, {escape(group)}: {v:,.4g}</title></rect>'
                       f'<text x="{bx + bar_w / 2 - 1:.1f}" y="{TOP + plot_h - h - 4:.1f}" text-anchor="middle" font-size="9">'
                       f'{short(v)}</text>')
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n</svg>\n")


def lines(path, title, xs, series, level=None):
    """Values over time on a logarithmic scale. @series: {name: [a value at each of xs]}; @level: drawn across."""
    found = [v for vs in series.values() for v in vs if v > 0] or [1]
    low, high = math.floor(math.log10(min(found))), max(math.ceil(math.log10(max(found))), math.floor(math.log10(min(found))) + 1)
    plot_w, plot_h = WIDTH - LEFT - 20, HEIGHT - TOP - BOTTOM

    def at(x, v):
        part = (math.log10(max(v, 10 ** low)) - low) / (high - low)
        return f"{LEFT + plot_w * (x - xs[0]) / (xs[-1] - xs[0] or 1):.1f},{TOP + plot_h * (1 - part):.1f}"
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
           f'<text x="{LEFT}" y="22" font-size="16" font-weight="bold">{escape(title)}</text>']
    for k in range(low, high + 1):
        y = TOP + plot_h * (1 - (k - low) / (high - low))
        out.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - 20}" y2="{y:.1f}" stroke="#d0d7de"/>'
                   f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10 ** k:g}</text>')
    for i in range(6):
        x = LEFT + plot_w * i / 5
        out.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{xs[0] + (xs[-1] - xs[0]) * i / 5:+.0f} s</text>')
    x = LEFT
    for i, (name, values) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        points = " ".join(at(*p) for p in zip(xs, values) if p[1] > 0)
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="{2.5 if name == "weir" else 1.2}" points="{points}"/>'
                   f'<rect x="{x}" y="34" width="11" height="11" fill="{colour}"/><text x="{x + 15}" y="44">{escape(name)}</text>')
        x += 32 + 7 * len(name)
    if level:
        a, b = at(xs[0], level), at(xs[-1], level)
        out.append(f'<polyline points="{a} {b}" fill="none" stroke="#cf222e" stroke-dasharray="5,4"/>')
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n</svg>\n")
