/* SPDX-License-Identifier: Apache-2.0 */
/* A file of pre-shared keys: lines of "identity:hex digits", as psktool(1) writes them; pure. */
#ifndef WEIR_TLS_PSK_H
#define WEIR_TLS_PSK_H
#include <stddef.h>
#include <stdint.h>

#define PSK_NAME_SIZE 128u /* of an identity, with its NUL */
#define PSK_KEY_MIN 16u    /* bytes: shorter ones can be guessed */
#define PSK_KEY_MAX 64u
#define PSK_FILE_MAX (1024u * 1024u)
#define PSK_KEYS_MAX 4096u

struct psk_entry {
    char name[PSK_NAME_SIZE];
    uint8_t key[PSK_KEY_MAX];
    size_t key_size;
};

struct psk_table {
    struct psk_entry *entry; /* in the order of the file */
    size_t count;
};

/* Take a file's @n bytes apart. Empty lines and lines that begin with "#" are passed over. 0, or
 * an error code with the line's number in *@ret_line and words on what was expected; then *@ret is
 * empty. Free with psk_free, which wipes the keys. */
int psk_parse(const char *bytes, size_t n, struct psk_table *ret, size_t *ret_line,
              const char **ret_expected);
void psk_free(struct psk_table *t);

/* The key of that identity, or NULL. */
const struct psk_entry *psk_find(const struct psk_table *t, const char *name, size_t n);

#endif
