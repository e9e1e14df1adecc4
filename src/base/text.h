/* SPDX-License-Identifier: Apache-2.0 */
/* Growable text and byte buffers, and bounded copies of strings. */
#ifndef WEIR_BASE_TEXT_H
#define WEIR_BASE_TEXT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A byte buffer that grows to @max and no further. data is always NUL-terminated behind len.
 * Owner frees with text_fini. Out of memory or beyond max: sets failed, drops the bytes. */
struct text {
    char *data;
    size_t len, cap, max;
    bool failed;
};

void text_init(struct text *t, size_t max);
void text_fini(struct text *t);
void text_clear(struct text *t);
void text_append(struct text *t, const void *bytes, size_t n);
void text_append_str(struct text *t, const char *s);
void text_printf(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Drop @n bytes at the front (n <= len). */
void text_consume(struct text *t, size_t n);

/* Copy @src into @dst of @size bytes, always terminated. 0, or WEIR_E_TOO_LARGE (then dst is "").
 * */
int text_copy(char *dst, size_t size, const char *src);

/* Copy @n bytes of outside text into @out (always terminated), safe to show: control characters,
 * bytes that are not UTF-8 and characters that hide or reorder text become \xNN. What does not fit
 * is cut between characters. Returns the length. Pure. */
size_t text_escape(char *out, size_t size, const char *s, size_t n);
/* The same for the whole of @s, at the end of @t. */
void text_append_escaped(struct text *t, const char *s);

/* What the hexadecimal digit @c stands for, or -1. Pure. */
int text_hex_value(char c);

/* Read a whole file of at most @max bytes into a fresh NUL-terminated buffer that the caller frees
 * (@ret_len may be NULL).
 * 0, -errno, or WEIR_E_TOO_LARGE. */
int text_read_file(const char *path, size_t max, char **ret_data, size_t *ret_len);

/* Replace @path by @n bytes so that a crash leaves either the old file or the new (temporary file,
 * fsync, rename, fsync of the folder). Mode @mode. 0 or -errno. */
int text_write_file_atomic(const char *path, const void *bytes, size_t n, unsigned mode);

#endif
