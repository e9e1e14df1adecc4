/* SPDX-License-Identifier: Apache-2.0 */
/* Lines over time as SVG, readable in a browser and in documents; pure. */
#ifndef WEIR_SIM_PLOT_H
#define WEIR_SIM_PLOT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

#define PLOT_SERIES_MAX 12u

struct plot_series {
    char name[96];
    const uint32_t *value; /* one each step_s */
    size_t count;
};

/* Append one chart of @count series. @line: a level to draw across (an objective); 0: none. */
void plot_lines(struct text *out, const char *title, const char *unit,
                const struct plot_series *series, size_t count, double step_s, double line);

#endif
