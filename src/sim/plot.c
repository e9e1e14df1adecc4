/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/plot.h"

#include "base/text.h"

#define WIDTH  860.0
#define HEIGHT 300.0
#define LEFT   70.0
#define TOP    36.0
#define RIGHT  200.0
#define BOTTOM 34.0

/* Distinguishable also by those who see few colours (Okabe and Ito, 2008). */
static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                      "#e69f00", "#56b4e9", "#000000", "#999999"};

/* The next of 1, 2, 5, 10, 20 ... that is not below @v. */
static double round_up(double v)
{
    double step = 1;
    while (step < v) {
        if (step * 2 >= v)
            return step * 2;
        if (step * 5 >= v)
            return step * 5;
        step *= 10;
    }
    return step;
}

static double highest(const struct plot_series *series, size_t count, double line)
{
    double most = line > 1 ? line : 1;
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < series[i].count; k++)
            most = (double)series[i].value[k] > most ? (double)series[i].value[k] : most;
    return round_up(most);
}

static void axes(struct text *out, double top, double seconds, const char *unit)
{
    const double width = WIDTH - LEFT - RIGHT, height = HEIGHT - TOP - BOTTOM;
    for (int i = 0; i <= 4; i++) {
        double y = TOP + height * (4 - i) / 4;
        text_printf(out,
                    "<line x1='%.0f' y1='%.1f' x2='%.0f' y2='%.1f' stroke='#ddd'/>"
                    "<text x='%.0f' y='%.1f' text-anchor='end'>%.6g</text>\n",
                    LEFT, y, LEFT + width, y, LEFT - 6, y + 4, top * i / 4);
    }
    for (int i = 0; i <= 4; i++)
        text_printf(out, "<text x='%.1f' y='%.0f' text-anchor='middle'>%.4g s</text>\n",
                    LEFT + width * i / 4, HEIGHT - BOTTOM + 18, seconds * i / 4);
    text_printf(out, "<text x='%.0f' y='%.0f' text-anchor='end'>%s</text>\n", LEFT - 6, TOP - 10,
                unit);
}

void plot_lines(struct text *out, const char *title, const char *unit,
                const struct plot_series *series, size_t count, double step_s, double line)
{
    const double width = WIDTH - LEFT - RIGHT, height = HEIGHT - TOP - BOTTOM;
    double top = highest(series, count, line);
    size_t values = 1;
    for (size_t i = 0; i < count; i++)
        values = series[i].count > values ? series[i].count : values;
    text_printf(out,
                "<svg xmlns='http://www.w3.org/2000/svg' width='%.0f' height='%.0f' "
                "font-family='sans-serif' font-size='12'>\n"
                "<rect width='100%%' height='100%%' fill='white'/>\n"
                "<text x='%.0f' y='18' font-size='14'>",
                WIDTH, HEIGHT, LEFT);
    text_append_escaped(out, title);
    text_append_str(out, "</text>\n");
    axes(out, top, (double)values * step_s, unit);
    for (size_t i = 0; i < count; i++) {
        const char *colour = colours[i % (sizeof colours / sizeof colours[0])];
        text_printf(out, "<polyline fill='none' stroke='%s' stroke-width='1.5' points='", colour);
        for (size_t k = 0; k < series[i].count; k++)
            text_printf(out, "%.1f,%.1f ", LEFT + width * ((double)k + 0.5) / (double)values,
                        TOP + height * (1 - (double)series[i].value[k] / top));
        text_printf(out,
                    "'/>\n<rect x='%.0f' y='%.1f' width='14' height='3' fill='%s'/>"
                    "<text x='%.0f' y='%.1f'>",
                    LEFT + width + 12, TOP + 16.0 * (double)i + 4, colour, LEFT + width + 32,
                    TOP + 16.0 * (double)i + 10);
        text_append_escaped(out, series[i].name);
        text_append_str(out, "</text>\n");
    }
    if (line > 0)
        text_printf(out,
                    "<line x1='%.0f' y1='%.1f' x2='%.0f' y2='%.1f' stroke='#c00' "
                    "stroke-dasharray='5,4'/>\n",
                    LEFT, TOP + height * (1 - line / top), LEFT + width,
                    TOP + height * (1 - line / top));
    text_append_str(out, "</svg>\n");
}
