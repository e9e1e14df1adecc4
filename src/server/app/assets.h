/* SPDX-License-Identifier: Apache-2.0 */
/* Files built into the server; the arrays are made by tools/embed. */
#ifndef WEIR_SERVER_APP_ASSETS_H
#define WEIR_SERVER_APP_ASSETS_H
#include <stddef.h>

struct asset {
    const char *name; /* "index.html" */
    const char *type; /* media type */
    const char *etag; /* of its bytes, with the quotes */
    const unsigned char *data;
    size_t size;
};

extern const struct asset assets[];
extern const size_t assets_count;

#endif
