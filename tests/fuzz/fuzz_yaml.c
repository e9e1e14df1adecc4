/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: no document that people give to `weir apply` crashes its reader, and what the reader
 * accepts is what the writer writes: printed and read again it is the same value.
 * Method: the input is the file. */
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/text.h"
#include "cli/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);

/* libfyaml 0.7.12 loses 4 KiB on some syntax errors; `weir` ends after one. */
const char *__lsan_default_suppressions(void)
{
    return "leak:libfyaml";
}

static void comes_back(const json_t *value)
{
    struct text out, error;
    struct yaml_document *again;
    size_t count;
    text_init(&out, 64u << 20);
    text_init(&error, 65536);
    yaml_print(value, &out);
    weir_assert(!out.failed);
    /* Escapes make text longer than it came: what is too large may be refused. */
    int r = yaml_parse("again", out.data, out.len, &again, &count, &error);
    weir_assert(r == 0 || r == WEIR_E_TOO_LARGE);
    if (r == 0) {
        weir_assert(count == 1);
        weir_assert(json_equal(again[0].value, value));
        yaml_free(again, count);
    }
    text_fini(&out);
    text_fini(&error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct text error;
    struct yaml_document *documents;
    size_t count;
    text_init(&error, 65536);
    int r = yaml_parse("input", (const char *)data, size, &documents, &count, &error);
    weir_assert((r == 0) == (error.len == 0));
    if (r == 0) {
        for (size_t i = 0; i < count; i++) {
            if (json_is_object(documents[i].value))
                comes_back(documents[i].value);
        }
        yaml_free(documents, count);
    }
    text_fini(&error);
    return 0;
}
