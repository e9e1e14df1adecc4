/* SPDX-License-Identifier: Apache-2.0 */
/* Daemon files: INI with "[kind name]" sections, drop-in directories, and errors that name their
 * place. */
#ifndef WEIR_BASE_CONF_H
#define WEIR_BASE_CONF_H
#include <stdbool.h>
#include <stddef.h>

#include "base/text.h"

/* One `key = value` where it stood. Strings live as long as the conf. */
struct conf_entry {
    const char *file;
    int line;
    const char *kind; /* "listener" of [listener web]; "" above the first section */
    const char *name; /* "web", or "" of [server] */
    const char *key;
    const char *value;
};

struct conf;

/* Read @path and, if @path.d exists, every *.conf in it in order of name (later wins: the reader
 * sees entries in order). Errors are appended to @errors, one line each, "file:line: words"; all
 * are found, not just the first. Bounds: 1 MiB a file, 64 drop-ins, 100,000 entries.
 * 0, -errno when a file cannot be read, WEIR_E_PARSE. Caller frees *@ret_conf with conf_free. */
int conf_load(const char *path, struct conf **ret_conf, struct text *errors);
void conf_free(struct conf *c);

/* Sections as opened, file after file, with key and value "": also those without any key. */
size_t conf_section_count(const struct conf *c);
const struct conf_entry *conf_section_at(const struct conf *c, size_t i);

size_t conf_count(const struct conf *c);
const struct conf_entry *conf_at(const struct conf *c, size_t i);
/* Where @key of [kind name] stands last, in whichever file; NULL: nowhere. */
const struct conf_entry *conf_find(const struct conf *c, const char *kind, const char *name,
                                   const char *key);
/* Whether the key of entry @i stands in its section of the same file already. */
bool conf_is_repeated(const struct conf *c, size_t i);

/* Append "file:line: [kind name] key: found "value", expected WORDS". */
void conf_error(struct text *errors, const struct conf_entry *e, const char *expected);
/* Append "file:line: [kind name]: unknown key "key"; known here: LIST". */
void conf_unknown(struct text *errors, const struct conf_entry *e, const char *known);

#endif
