/* SPDX-License-Identifier: Apache-2.0 */
/* YAML in and out of JSON values: several documents, no aliases, bounded, with line numbers. */
#ifndef WEIR_CLI_YAML_H
#define WEIR_CLI_YAML_H
#include <jansson.h>
#include <stddef.h>

#include "base/text.h"

#define YAML_BYTES_MAX (4u * 1024u * 1024u)
#define YAML_DEPTH_MAX 32u
#define YAML_DOCUMENTS_MAX 10000u

struct yaml_document {
    json_t *value;
    int line; /* where it begins */
};

/* Read every document of @data (JSON is YAML, too). Anchors, aliases, tags and repeated keys are
 * refused. Plain scalars follow the core schema (YAML 1.2.2, 10.3.2). 0 with a fresh array that
 * yaml_free frees; or WEIR_E_PARSE, WEIR_E_TOO_LARGE, -ENOMEM with "name:line: words" in @error. */
int yaml_parse(const char *name, const char *data, size_t n, struct yaml_document **ret,
               size_t *ret_count, struct text *error);
void yaml_free(struct yaml_document *documents, size_t count);

/* Append @value in block style. Reads back as the same value. Control characters are escaped. */
void yaml_print(const json_t *value, struct text *out);

#endif
