/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever stands in a file of pre-shared keys, it is read within its bounds or refused, with the
 * number of a line that is there, and each key that was read is found again. */
#include <stdint.h>
#include <string.h>

#include "base/assert.h"
#include "tls/psk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct psk_table t;
    size_t line = 0, lines = 1;
    const char *expected = NULL;
    for (size_t i = 0; i < size; i++)
        lines += data[i] == '\n';
    if (psk_parse((const char *)data, size, &t, &line, &expected) < 0) {
        weir_assert(t.count == 0);
        weir_assert(t.entry == NULL);
        weir_assert(expected != NULL);
        weir_assert(line <= lines);
        return 0;
    }
    weir_assert(t.count > 0);
    weir_assert(t.count <= PSK_KEYS_MAX);
    for (size_t i = 0; i < t.count; i++) {
        const struct psk_entry *e = &t.entry[i];
        weir_assert(e->key_size >= PSK_KEY_MIN);
        weir_assert(e->key_size <= PSK_KEY_MAX);
        weir_assert(psk_find(&t, e->name, strlen(e->name)) == e);
    }
    psk_free(&t);
    return 0;
}
