/* SPDX-License-Identifier: Apache-2.0 */
/* Names that come from outside: bounded, checked, and escaped wherever they are shown. */
#ifndef WEIR_BASE_NAME_H
#define WEIR_BASE_NAME_H
#include <stdbool.h>
#include <stddef.h>

/* Longest host, volume, tenant, target, agreement or gateway name in bytes, with the NUL. Longer
 * export names from hosts are shortened to a prefix plus a hash, so that two stay two. */
#define NAME_SIZE 128
/* A stream's key: "host/volume" (both escaped). */
#define STREAM_KEY_SIZE (2 * NAME_SIZE)

/* Whether @s may name a document or a section: [A-Za-z0-9]([A-Za-z0-9._-]*), below NAME_SIZE. */
bool name_is_plain(const char *s);

/* Escape @n outside bytes into @out (NAME_SIZE): printable ASCII but '%', '/', '"', '\\', '<', '>',
 * '&' and space pass; all else becomes %XX. What does not fit ends in "~" and 8 hex digits of a
 * hash of the whole. An empty name becomes "default". */
void name_escape(const void *bytes, size_t n, char out[NAME_SIZE]);

/* "host/volume" of two escaped names. */
void name_stream_key(const char *host, const char *volume, char out[STREAM_KEY_SIZE]);

/* Shell pattern match (*, ?, [..]) of a selector against a name; a NULL pattern matches all. */
bool name_match(const char *pattern, const char *name);

#endif
