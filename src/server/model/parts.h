/* SPDX-License-Identifier: Apache-2.0 */
/* Parts that several kinds of documents share: the envelope, who (selector) and how much
 * (limits). */
#ifndef WEIR_SERVER_MODEL_PARTS_H
#define WEIR_SERVER_MODEL_PARTS_H
#include <jansson.h>

#include "server/model/field.h"
#include "server/services/agreement.h"

/* Bounds of what may be written. */
#define MODEL_MAX_IOPS       INT64_C(1000000000)
#define MODEL_MAX_BANDWIDTH  INT64_C(1000000000000)
#define MODEL_MAX_LATENCY_US INT64_C(60000000)

#define MODEL_EXPECT_IOPS                                                                          \
    "I/Os per second, 1 to 1000000000; no such value is null or unlimited, never 0"
#define MODEL_EXPECT_BANDWIDTH                                                                     \
    "bytes per second such as 400MiB/s; no such value is null or unlimited, never 0"
#define MODEL_EXPECT_PATTERN                                                                       \
    "a name or pattern such as db-*, 1 to 127 printable characters, without / \" \\ < > & or "     \
    "space"

extern const struct field_table
    model_selector_table; /* struct selector: tenant, host, volume, target */
extern const struct field_table model_member_table; /* struct selector without tenant; not empty */
extern const struct field_table model_limits_table; /* struct gate_limits */
extern const struct field_table model_window_table; /* struct week_window */

json_t *model_selector_render(const struct selector *s);
json_t *model_limits_render(const struct gate_limits *l);
json_t *model_windows_render(const struct week_window *w, size_t count);

/* Reads kind, name and the fields by @table, at the top level or under spec. 0 or
 * WEIR_E_INVALID. */
int model_document_read(const json_t *doc, const char *kind, char name[NAME_SIZE],
                        const struct field_table *table, void *object, struct text *errors);
/* {"kind","name","spec"}; takes @spec. */
json_t *model_document_render(const char *kind, const char *name, json_t *spec);

#endif
