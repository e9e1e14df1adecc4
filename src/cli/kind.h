/* SPDX-License-Identifier: Apache-2.0 */
/* The kinds of objects: their names, their place in the API, and their columns. */
#ifndef WEIR_CLI_KIND_H
#define WEIR_CLI_KIND_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/text.h"
#include "cli/table.h"

struct kind {
    const char *plural, *singular, *alias; /* alias may be NULL */
    const char *document;  /* "Agreement" of documents, else NULL */
    const char *path;      /* "/api/v1/agreements" */
    const char *id;        /* key of the member that names an object */
    bool history;          /* rows of the database, newest first */
    bool single;           /* GET path/NAME gives one */
    const char *live;      /* what updates of it are called in /api/v1/live; NULL: it has none */
    const struct table_column *columns;
    size_t column_count;
};

/* By plural, singular, alias or document name, in any case; or NULL. */
const struct kind *kind_find(const char *name);
const struct kind *kind_at(size_t i); /* NULL behind the last */
/* The kind of a document's "kind", exactly; or NULL. */
const struct kind *kind_of_document(const char *document);
/* Whether delete takes it: documents, and gateways, which it retires. */
bool kind_is_deleted(const struct kind *k);
/* Which kinds a verb takes. */
enum kind_which { KIND_ALL, KIND_LIVE, KIND_DELETED };
/* Their plurals with @between: "streams, gateways, ...". */
void kind_list(enum kind_which which, const char *between, struct text *out);

/* Append the API's path of the object that is called @name. 0, or WEIR_E_INVALID: no such name can
 * be (a stream is HOST/VOLUME). */
int kind_path(const struct kind *k, const char *name, struct text *out);

/* A document as people write it: kind, name and the spec's fields at the top, nulls left out. Takes
 * either form; fresh reference, or NULL when it is no object. */
json_t *kind_people_form(const json_t *document);

#endif
