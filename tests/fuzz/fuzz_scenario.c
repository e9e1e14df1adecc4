/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: no file that people give to `weir simulate` leads its readers out of their bounds.
 * Method: the first byte says what the rest is: a scenario's documents, as JSON, or a trace in one
 * of its formats. What is accepted keeps the bounds that the simulator counts on. Scenarios that
 * name a trace are passed over: they would have any file opened. */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/text.h"
#include "sim/scenario.h"
#include "sim/trace.h"

#define DOCUMENTS_MAX 64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_scenario(const char *text, size_t size)
{
    if (memmem(text, size, "trace", 5) != NULL || memmem(text, size, "\\u", 2) != NULL)
        return;
    json_error_t error;
    json_t *all = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    json_t *documents[DOCUMENTS_MAX];
    size_t count = json_array_size(all) < DOCUMENTS_MAX ? json_array_size(all) : DOCUMENTS_MAX;
    struct scenario s;
    struct text errors;
    for (size_t i = 0; i < count; i++)
        documents[i] = json_array_get(all, i);
    text_init(&errors, 1 << 20);
    int r = scenario_read(&s, documents, count, "/nonexistent", &errors);
    weir_assert(r == 0 || r == WEIR_E_INVALID);
    weir_assert((r == 0) == (errors.len == 0));
    if (r == 0) {
        weir_assert(s.config.device_count > 0);
        weir_assert(s.config.load_count > 0);
        weir_assert(s.config.duration_ns > 0);
        scenario_fini(&s);
    }
    text_fini(&errors);
    json_decref(all);
}

static void try_trace(const char *text, size_t size, const char *format)
{
    struct sim_trace_io *io = NULL;
    size_t count = 0;
    char why[200] = "";
    int r = trace_parse(text, size, format, 2.0, &io, &count, why, sizeof(why));
    if (r < 0) {
        weir_assert(why[0] != '\0');
        return;
    }
    weir_assert(count > 0 && count <= TRACE_IOS_MAX);
    for (size_t i = 1; i < count; i++)
        weir_assert(io[i].at_ns >= io[i - 1].at_ns);
    free(io);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const formats[] = {"msr", "blkparse", "cloudphysics"};
    if (size < 1)
        return 0;
    /* Exactly as long as it is, so that a step beyond is seen. */
    char *text = malloc(size - 1);
    weir_assert(text != NULL || size == 1);
    if (size > 1)
        memcpy(text, data + 1, size - 1);
    if (data[0] % 4 == 3)
        try_scenario(text, size - 1);
    else
        try_trace(text, size - 1, formats[data[0] % 4]);
    free(text);
    return 0;
}
