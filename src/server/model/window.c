/* SPDX-License-Identifier: Apache-2.0 */
/* Windows of the week, as schedules and freezes write them. Times of day are UTC; one whose `from`
 * is later than its `to` passes midnight, and its days are those it begins on. */
#include <stdio.h>

#include "server/model/parts.h"

/* Bit 0 of day_mask is Monday. */
static const char *const days[] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun", NULL};
#define ALL_DAYS 0x7f

static void check_window(struct field_reader *r, void *object)
{
    struct week_window *w = object;
    if (w->from_min == w->to_min)
        field_error(
            r, "found one time as from and to, expected two (00:00 to 24:00 is the whole day)");
    if (w->day_mask == 0)
        w->day_mask = ALL_DAYS;
}

static const struct field window_fields[] = {
    {.key = "days",
     .type = FIELD_DAY_MASK,
     .words = days,
     .at = offsetof(struct week_window, day_mask),
     .expected = "a list of distinct days out of mon, tue, wed, thu, fri, sat, sun"},
    {.key = "from",
     .type = FIELD_MINUTE,
     .required = true,
     .min = 0,
     .max = 1439,
     .at = offsetof(struct week_window, from_min),
     .expected = "a time of day (UTC) such as 08:00"},
    {.key = "to",
     .type = FIELD_MINUTE,
     .required = true,
     .min = 1,
     .max = 1440,
     .at = offsetof(struct week_window, to_min),
     .expected = "a time of day (UTC) such as 18:00, up to 24:00"},
};

const struct field_table model_window_table = {
    .field = window_fields, .count = 3, .check = check_window};

static json_t *render_minute(uint32_t minute)
{
    char text[16];
    snprintf(text, sizeof(text), "%02u:%02u", minute / 60 % 100, minute % 60);
    return json_string(text);
}

json_t *model_windows_render(const struct week_window *w, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        json_t *names = json_array();
        for (int day = 0; days[day] != NULL; day++)
            if ((w[i].day_mask & (1 << day)) != 0)
                json_array_append_new(names, json_string(days[day]));
        json_array_append_new(list, json_pack("{s:o, s:o, s:o}", "days", names, "from",
                                              render_minute(w[i].from_min), "to",
                                              render_minute(w[i].to_min)));
    }
    return list;
}
