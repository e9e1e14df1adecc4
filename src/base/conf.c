/* SPDX-License-Identifier: Apache-2.0 */
/* Reader of daemon files.
 *
 * Grammar, line by line (no continuation lines, so that a line number always says where):
 *   blank, or a comment whose first character is '#' or ';'
 *   [kind] or [kind name]
 *   key = value          spaces around both are dropped; the value is the rest of the line
 * There are no comments behind values (URIs may hold '#') and no quotes (refused, since they would
 * become part of the value unseen).
 *
 * Drop-ins follow the main file in order of name. A section may be opened again in another file but
 * not twice in one, where it is a slip of the hand. Every error is found and named; the result is
 * only given when there is none. */
#include "base/conf.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"

#define FILE_BYTES_MAX (1024u * 1024u)
#define DROP_INS_MAX   64u
#define ENTRIES_MAX    100000u
#define SECTIONS_MAX   20000u /* bounds the search for a second of the same name, too */
#define MAX_SHOWN      512u   /* bytes of a wrong value that its error repeats */

struct conf_file {
    char *path;
    char *data; /* cut into the strings that entries point to */
};

struct conf {
    struct conf_file files[1 + DROP_INS_MAX];
    size_t file_count;
    struct conf_entry *entries;
    size_t count, cap;
    struct conf_entry *sections;
    size_t section_count, section_cap;
};

/* Where the reader stands. */
struct place {
    struct conf *conf;
    struct text *errors;
    const char *file;
    int line;
    const char *kind, *name;
    bool failed;
    size_t first_section; /* of this file, in conf->sections */
};

static void complain(struct place *p, const char *words, const char *found)
{
    text_printf(p->errors, "%s:%d: %s", p->file, p->line, words);
    if (found) {
        text_append_str(p->errors, ": found \"");
        text_append_escaped(p->errors, found);
        text_append_str(p->errors, "\"");
    }
    text_append_str(p->errors, "\n");
    p->failed = true;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

/* Drop spaces at both ends of @s, in place. */
static char *trim(char *s)
{
    while (is_space(*s))
        s++;
    size_t n = strlen(s);
    while (n > 0 && is_space(s[n - 1]))
        n--;
    s[n] = '\0';
    return s;
}

static bool is_key(const char *s)
{
    return *s != '\0' && s[strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-")] == '\0';
}

/* Append to a growing array of entries. */
static bool push(struct conf_entry **array, size_t *count, size_t *cap, const struct conf_entry *e)
{
    if (*count == *cap) {
        size_t more = *cap ? *cap * 2 : 64;
        struct conf_entry *bigger = reallocarray(*array, more, sizeof(**array));
        if (!bigger)
            return false;
        *array = bigger;
        *cap = more;
    }
    (*array)[(*count)++] = *e;
    return true;
}

static void read_header(struct place *p, char *s)
{
    size_t n = strlen(s);
    if (s[n - 1] != ']') {
        complain(p, "a section ends in \"]\"", s);
        return;
    }
    s[n - 1] = '\0';
    s = trim(s + 1);
    char *name = s + strcspn(s, " \t");
    if (*name != '\0')
        *name++ = '\0';
    name = trim(name);
    if (!is_key(s) || strpbrk(name, "[]")) {
        complain(p, "expected [kind] or [kind name]", s);
        return;
    }
    p->kind = s;
    p->name = name;
    struct conf *c = p->conf;
    for (size_t i = p->first_section; i < c->section_count; i++) {
        const struct conf_entry *h = &c->sections[i];
        if (strcmp(h->kind, s) == 0 && strcmp(h->name, name) == 0) {
            text_printf(p->errors, "%s:%d: section [%s%s", p->file, p->line, s, *name ? " " : "");
            text_append_escaped(p->errors, name);
            text_printf(p->errors, "] was opened on line %d already\n", h->line);
            p->failed = true;
            return;
        }
    }
    struct conf_entry header = {
        .file = p->file, .line = p->line, .kind = s, .name = name, .key = "", .value = ""};
    if (c->section_count >= SECTIONS_MAX) {
        if (!p->failed)
            complain(p, "more sections than a configuration may have (20000)", NULL);
    } else if (!push(&c->sections, &c->section_count, &c->section_cap, &header)) {
        complain(p, "out of memory", NULL);
    }
}

static void read_line(struct place *p, char *s)
{
    s = trim(s);
    if (*s == '\0' || *s == '#' || *s == ';')
        return;
    if (*s == '[') {
        read_header(p, s);
        return;
    }
    char *equals = strchr(s, '=');
    if (!equals) {
        complain(p, "expected \"key = value\", [section] or a comment", s);
        return;
    }
    *equals = '\0';
    char *key = trim(s), *value = trim(equals + 1);
    if (!is_key(key)) {
        complain(p, "a key is made of small letters, digits and \"-\"", key);
    } else if (*value == '\0') {
        complain(p, "no value; leave the line out to keep the default", key);
    } else if (*value == '"' || *value == '\'') {
        complain(p, "values are written without quotes", value);
    } else if (p->conf->count >= ENTRIES_MAX) {
        if (!p->failed)
            complain(p, "more keys than a configuration may have (100000)", NULL);
    } else {
        struct conf_entry e = {.file = p->file,
                               .line = p->line,
                               .kind = p->kind,
                               .name = p->name,
                               .key = key,
                               .value = value};
        if (!push(&p->conf->entries, &p->conf->count, &p->conf->cap, &e))
            complain(p, "out of memory", NULL);
    }
}

static void read_lines(struct place *p, char *data, size_t len)
{
    if (len >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0)
        data += 3, len -= 3;
    char *end = data + len;
    while (data < end) {
        p->line++;
        char *eol = memchr(data, '\n', (size_t)(end - data));
        char *next = eol ? eol + 1 : end;
        char *stop = eol ? eol : end;
        if (stop > data && stop[-1] == '\r')
            stop--;
        *stop = '\0'; /* the buffer has a NUL behind its end */
        if (strlen(data) != (size_t)(stop - data))
            complain(p, "holds a NUL byte", NULL);
        else
            read_line(p, data);
        data = next;
    }
}

/* Take @path (owned from here on) into @c. */
static int read_file(struct conf *c, char *path, struct text *errors)
{
    char *data;
    size_t len;
    int r = text_read_file(path, FILE_BYTES_MAX, &data, &len);
    if (r < 0) {
        text_printf(errors, "%s: cannot be read: %s%s\n", path, weir_strerror(r),
                    r == WEIR_E_TOO_LARGE ? " of 1 MiB" : "");
        free(path);
        return r;
    }
    weir_assert(c->file_count < 1 + DROP_INS_MAX);
    c->files[c->file_count++] = (struct conf_file){.path = path, .data = data};
    struct place p = {.conf = c,
                      .errors = errors,
                      .file = path,
                      .kind = "",
                      .name = "",
                      .first_section = c->section_count};
    read_lines(&p, data, len);
    return p.failed ? WEIR_E_PARSE : 0;
}

static int is_drop_in(const struct dirent *d)
{
    size_t n = strlen(d->d_name);
    return d->d_name[0] != '.' && n > 5 && strcmp(d->d_name + n - 5, ".conf") == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* The first error wins, but all files are read. */
static int read_drop_ins(struct conf *c, const char *path, struct text *errors)
{
    char folder[PATH_MAX];
    int len = snprintf(folder, sizeof(folder), "%s.d", path);
    if (len < 0 || (size_t)len >= sizeof(folder))
        return -ENAMETOOLONG;
    struct dirent **found;
    int n = scandir(folder, &found, is_drop_in, by_name);
    if (n < 0) {
        int r = -errno;
        if (r == -ENOENT || r == -ENOTDIR)
            return 0;
        text_printf(errors, "%s: cannot be read: %s\n", folder, weir_strerror(r));
        return r;
    }
    int result = 0;
    if ((unsigned)n > DROP_INS_MAX) {
        text_printf(errors, "%s: holds %d files, expected at most %u\n", folder, n, DROP_INS_MAX);
        result = WEIR_E_TOO_LARGE;
    }
    for (int i = 0; i < n; i++) {
        char *file = NULL;
        if ((unsigned)n <= DROP_INS_MAX) {
            int made = asprintf(&file, "%s/%s", folder, found[i]->d_name);
            int r = made < 0 ? -ENOMEM : read_file(c, file, errors);
            result = result < 0 ? result : r;
        }
        free(found[i]);
    }
    free(found);
    return result;
}

int conf_load(const char *path, struct conf **ret_conf, struct text *errors)
{
    struct conf *c = calloc(1, sizeof(*c));
    char *own = strdup(path);
    if (!c || !own) {
        free(c);
        free(own);
        return -ENOMEM;
    }
    int r = read_file(c, own, errors);
    int more = read_drop_ins(c, path, errors);
    if (r == 0)
        r = more;
    if (r < 0) {
        conf_free(c);
        return r;
    }
    *ret_conf = c;
    return 0;
}

void conf_free(struct conf *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->file_count; i++) {
        free(c->files[i].path);
        free(c->files[i].data);
    }
    free(c->entries);
    free(c->sections);
    free(c);
}

size_t conf_section_count(const struct conf *c)
{
    return c->section_count;
}

const struct conf_entry *conf_section_at(const struct conf *c, size_t i)
{
    weir_assert(i < c->section_count);
    return &c->sections[i];
}

size_t conf_count(const struct conf *c)
{
    return c->count;
}

const struct conf_entry *conf_at(const struct conf *c, size_t i)
{
    weir_assert(i < c->count);
    return &c->entries[i];
}

const struct conf_entry *conf_find(const struct conf *c, const char *kind, const char *name,
                                   const char *key)
{
    for (size_t i = c->count; i-- > 0;) {
        const struct conf_entry *e = &c->entries[i];
        if (strcmp(e->key, key) == 0 && strcmp(e->kind, kind) == 0 && strcmp(e->name, name) == 0)
            return e;
    }
    return NULL;
}

/* A section is opened once a file, so its entries are neighbours and share the pointer to its name.
 */
bool conf_is_repeated(const struct conf *c, size_t i)
{
    const struct conf_entry *e = conf_at(c, i);
    while (i-- > 0) {
        const struct conf_entry *before = conf_at(c, i);
        if (before->name != e->name)
            return false;
        if (strcmp(before->key, e->key) == 0)
            return true;
    }
    return false;
}

/* "file:line: [kind name]" */
static void put_place(struct text *errors, const struct conf_entry *e)
{
    text_printf(errors, "%s:%d: ", e->file, e->line);
    if (*e->kind == '\0') {
        text_append_str(errors, "(above the first section)");
        return;
    }
    text_printf(errors, "[%s%s", e->kind, *e->name ? " " : "");
    text_append_escaped(errors, e->name);
    text_append_str(errors, "]");
}

void conf_error(struct text *errors, const struct conf_entry *e, const char *expected)
{
    char shown[MAX_SHOWN + 1];
    size_t len = strlen(e->value);
    snprintf(shown, sizeof(shown), "%s", e->value);
    put_place(errors, e);
    text_printf(errors, " %s: found \"", e->key);
    text_append_escaped(errors, shown);
    text_append_str(errors, "\"");
    if (len > MAX_SHOWN)
        text_printf(errors, " and so on, %zu bytes", len);
    text_printf(errors, ", expected %s\n", expected);
}

void conf_unknown(struct text *errors, const struct conf_entry *e, const char *known)
{
    put_place(errors, e);
    text_printf(errors, ": unknown key \"%s\"; known here: %s\n", e->key, known);
}
