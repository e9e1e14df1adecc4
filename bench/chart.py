# SPDX-License-Identifier: Apache-2.0
"""Grouped bars as SVG, with nothing but strings; readable in light and dark."""

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 860, 380, 70, 60, 60
COLOURS = ["#1f6feb", "#54aeff", "#8b949e", "#d29922", "#bc4c00", "#8250df"]


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
