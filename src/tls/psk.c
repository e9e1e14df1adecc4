/* SPDX-License-Identifier: Apache-2.0 */
#include "tls/psk.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/text.h"

/* What is wrong with the line of @n bytes at @line, or NULL: *@e is filled in. */
static const char *parse_line(const char *line, size_t n, struct psk_entry *e)
{
    const char *colon = memchr(line, ':', n);
    if (colon == NULL)
        return "IDENTITY:HEXKEY";
    size_t name = (size_t)(colon - line), digits = n - name - 1;
    if (name == 0 || name >= sizeof(e->name) || memchr(line, '\0', name) != NULL)
        return "an identity of 1 to 127 bytes before the colon";
    if (digits % 2 != 0 || digits < 2 * PSK_KEY_MIN || digits > 2 * PSK_KEY_MAX)
        return "a key of 32 to 128 hex digits, two a byte, behind the colon";
    for (size_t i = 0; i < digits / 2; i++) {
        int high = text_hex_value(colon[1 + 2 * i]), low = text_hex_value(colon[2 + 2 * i]);
        if (high < 0 || low < 0)
            return "hex digits behind the colon";
        e->key[i] = (uint8_t)(high << 4 | low);
    }
    memcpy(e->name, line, name);
    e->name[name] = '\0';
    e->key_size = digits / 2;
    return NULL;
}

static int add(struct psk_table *t, const char *line, size_t n, const char **ret_expected)
{
    struct psk_entry e = {0};
    *ret_expected = parse_line(line, n, &e);
    if (*ret_expected == NULL && psk_find(t, e.name, strlen(e.name)) != NULL)
        *ret_expected = "each identity once";
    if (*ret_expected == NULL && t->count == PSK_KEYS_MAX)
        *ret_expected = "at most 4096 keys";
    int r = *ret_expected == NULL ? 0 : WEIR_E_PARSE;
    /* Twice the room when it is full, a new place each time: no key stays in freed memory. */
    if (r == 0 && (t->count & (t->count - 1)) == 0) {
        size_t room = t->count == 0 ? 1 : 2 * t->count;
        struct psk_entry *more = calloc(room, sizeof(*more));
        if (more == NULL) {
            *ret_expected = "more memory";
            r = -ENOMEM;
        } else {
            if (t->count > 0) {
                memcpy(more, t->entry, t->count * sizeof(*more));
                sodium_memzero(t->entry, t->count * sizeof(*more));
            }
            free(t->entry);
            t->entry = more;
        }
    }
    if (r == 0)
        t->entry[t->count++] = e;
    sodium_memzero(&e, sizeof(e));
    return r;
}

int psk_parse(const char *bytes, size_t n, struct psk_table *ret, size_t *ret_line,
              const char **ret_expected)
{
    struct psk_table t = {0};
    *ret = t;
    *ret_line = 0;
    for (size_t at = 0; at < n;) {
        const char *line = bytes + at, *end = memchr(line, '\n', n - at);
        size_t len = end != NULL ? (size_t)(end - line) : n - at;
        at += len + 1;
        ++*ret_line;
        while (len > 0 && (line[len - 1] == '\r' || line[len - 1] == ' '))
            len--;
        if (len == 0 || line[0] == '#')
            continue;
        int r = add(&t, line, len, ret_expected);
        if (r < 0) {
            psk_free(&t);
            return r;
        }
    }
    if (t.count == 0) {
        *ret_expected = "at least one line IDENTITY:HEXKEY";
        return WEIR_E_PARSE;
    }
    *ret = t;
    return 0;
}

void psk_free(struct psk_table *t)
{
    if (t->entry != NULL)
        sodium_memzero(t->entry, t->count * sizeof(*t->entry));
    free(t->entry);
    *t = (struct psk_table){0};
}

const struct psk_entry *psk_find(const struct psk_table *t, const char *name, size_t n)
{
    for (size_t i = 0; i < t->count; i++) {
        if (strlen(t->entry[i].name) == n && memcmp(t->entry[i].name, name, n) == 0)
            return &t->entry[i];
    }
    return NULL;
}
