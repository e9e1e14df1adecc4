/* SPDX-License-Identifier: Apache-2.0 */
#include "server/monitor/keys.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/text.h"

void keys_init(struct key_table *t)
{
    *t = (struct key_table){0};
}

static void class_clear(struct key_table *t, enum key_class class)
{
    if (t->entry[class] != NULL)
        sodium_memzero(t->entry[class], t->count[class] * sizeof(struct key_entry));
    free(t->entry[class]);
    t->entry[class] = NULL;
    t->count[class] = 0;
}

void keys_fini(struct key_table *t)
{
    class_clear(t, KEY_CREDENTIAL);
    class_clear(t, KEY_TOKEN);
}

static int hex_exact(const char *hex, uint8_t *ret, size_t size)
{
    size_t n = 0;
    if (hex == NULL || strlen(hex) != 2 * size ||
        sodium_hex2bin(ret, size, hex, 2 * size, NULL, &n, NULL) != 0 || n != size)
        return WEIR_E_PARSE;
    return 0;
}

static const char *row_text(const json_t *row, const char *key)
{
    return json_string_value(json_object_get(row, key));
}

static int credential_from_row(struct key_entry *e, const json_t *row)
{
    const char *id = row_text(row, "key_id");
    if (id == NULL || strncmp(id, "gateway:", 8) != 0 || text_copy(e->id, sizeof(e->id), id) < 0)
        return WEIR_E_PARSE;
    if (hex_exact(row_text(row, "gateway_id"), e->gateway_id, sizeof(e->gateway_id)) < 0)
        return WEIR_E_PARSE;
    const char *tls_key = row_text(row, "tls_key");
    e->has_tls_key = tls_key != NULL && *tls_key != '\0';
    if (e->has_tls_key && hex_exact(tls_key, e->tls_key, sizeof(e->tls_key)) < 0)
        return WEIR_E_PARSE;
    e->made_us = json_integer_value(json_object_get(row, "created_us"));
    e->ordered_us = json_integer_value(json_object_get(row, "ordered_us"));
    return hex_exact(row_text(row, "key"), e->key, sizeof(e->key));
}

static int token_from_row(struct key_entry *e, const json_t *row)
{
    const char *id = row_text(row, "id");
    if (id == NULL || strlen(id) != AUTH_TOKEN_ID_SIZE - 1)
        return WEIR_E_PARSE;
    snprintf(e->id, sizeof(e->id), "token:%s", id);
    e->expires_us = json_integer_value(json_object_get(row, "expires_us"));
    const char *used_by = row_text(row, "used_by");
    e->used = used_by != NULL;
    if (e->used && hex_exact(used_by, e->gateway_id, sizeof(e->gateway_id)) < 0)
        return WEIR_E_PARSE;
    return hex_exact(row_text(row, "key"), e->key, sizeof(e->key));
}

static int entry_order(const void *a, const void *b)
{
    const struct key_entry *x = a, *y = b;
    return strcmp(x->id, y->id);
}

int keys_replace(struct key_table *t, enum key_class class, const json_t *rows, size_t *ret_bad)
{
    if (!json_is_array(rows))
        return WEIR_E_PARSE;
    size_t n = json_array_size(rows), kept = 0;
    struct key_entry *entry = calloc(n + 1, sizeof(*entry));
    if (entry == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        const json_t *row = json_array_get(rows, i);
        struct key_entry e = {0};
        int r = class == KEY_CREDENTIAL ? credential_from_row(&e, row) : token_from_row(&e, row);
        if (r == 0)
            entry[kept++] = e;
    }
    qsort(entry, kept, sizeof(*entry), entry_order);
    class_clear(t, class);
    t->entry[class] = entry;
    t->count[class] = kept;
    *ret_bad = n - kept;
    return 0;
}

int keys_add_credential(struct key_table *t, const struct key_entry *e)
{
    size_t n = t->count[KEY_CREDENTIAL];
    struct key_entry *entry = calloc(n + 2, sizeof(*entry));
    if (entry == NULL)
        return -ENOMEM;
    if (n > 0)
        memcpy(entry, t->entry[KEY_CREDENTIAL], n * sizeof(*entry));
    entry[n] = *e;
    qsort(entry, n + 1, sizeof(*entry), entry_order);
    class_clear(t, KEY_CREDENTIAL);
    t->entry[KEY_CREDENTIAL] = entry;
    t->count[KEY_CREDENTIAL] = n + 1;
    return 0;
}

const struct key_entry *keys_find(const struct key_table *t, const char *id, int64_t now_wall_us,
                                  enum key_class *ret_class)
{
    struct key_entry wanted = {0};
    if (text_copy(wanted.id, sizeof(wanted.id), id) < 0)
        return NULL;
    enum key_class class = strncmp(id, "token:", 6) == 0 ? KEY_TOKEN : KEY_CREDENTIAL;
    if (t->count[class] == 0)
        return NULL;
    const struct key_entry *e =
        bsearch(&wanted, t->entry[class], t->count[class], sizeof(wanted), entry_order);
    if (e == NULL || (e->expires_us != 0 && e->expires_us <= now_wall_us))
        return NULL;
    *ret_class = class;
    return e;
}

void keys_use_token(struct key_table *t, const char *id, const uint8_t gateway_id[AUTH_ID_SIZE])
{
    for (size_t i = 0; i < t->count[KEY_TOKEN]; i++) {
        struct key_entry *e = &t->entry[KEY_TOKEN][i];
        if (strcmp(e->id, id) != 0)
            continue;
        e->used = true;
        memcpy(e->gateway_id, gateway_id, AUTH_ID_SIZE);
    }
}

bool keys_order(struct key_table *t, const uint8_t gateway_id[AUTH_ID_SIZE], int64_t since_us)
{
    bool was = false;
    for (size_t i = 0; i < t->count[KEY_CREDENTIAL]; i++) {
        struct key_entry *e = &t->entry[KEY_CREDENTIAL][i];
        /* A key made after the order is what was ordered. */
        if (memcmp(e->gateway_id, gateway_id, AUTH_ID_SIZE) != 0 || e->made_us > since_us)
            continue;
        was = was || e->ordered_us != 0;
        e->ordered_us = since_us;
    }
    return was;
}

bool keys_withdraw(struct key_table *t, const uint8_t gateway_id[AUTH_ID_SIZE], int64_t asked_us)
{
    bool was = false;
    for (size_t i = 0; i < t->count[KEY_CREDENTIAL]; i++) {
        struct key_entry *e = &t->entry[KEY_CREDENTIAL][i];
        if (memcmp(e->gateway_id, gateway_id, AUTH_ID_SIZE) != 0 || e->ordered_us == 0 ||
            e->ordered_us >= asked_us)
            continue;
        was = true;
        e->ordered_us = 0;
    }
    return was;
}

bool keys_open_token(const struct key_table *t, const uint8_t gateway_id[AUTH_ID_SIZE])
{
    for (size_t i = 0; i < t->count[KEY_TOKEN]; i++) {
        const struct key_entry *e = &t->entry[KEY_TOKEN][i];
        if (e->used && memcmp(e->gateway_id, gateway_id, AUTH_ID_SIZE) == 0)
            return true;
    }
    return false;
}

void keys_keep_one(struct key_table *t, const uint8_t gateway_id[AUTH_ID_SIZE], const char *key_id)
{
    struct key_entry *all = t->entry[KEY_CREDENTIAL];
    size_t kept = 0;
    for (size_t i = 0; i < t->count[KEY_CREDENTIAL]; i++)
        if (memcmp(all[i].gateway_id, gateway_id, AUTH_ID_SIZE) != 0 ||
            strcmp(all[i].id, key_id) == 0)
            all[kept++] = all[i];
    if (kept < t->count[KEY_CREDENTIAL])
        sodium_memzero(&all[kept], (t->count[KEY_CREDENTIAL] - kept) * sizeof(*all));
    t->count[KEY_CREDENTIAL] = kept;
}
