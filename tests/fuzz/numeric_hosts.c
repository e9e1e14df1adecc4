/* SPDX-License-Identifier: Apache-2.0 */
/* Linked into fuzz targets whose input may name a host: only numbers are addresses there. */
#include <dlfcn.h>
#include <netdb.h>
#include <stddef.h>

#include "base/assert.h"

/* Takes the place of libc's: names of random letters must not become questions to a name server. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **res)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    struct addrinfo numeric = hints ? *hints : (struct addrinfo){0};
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    weir_assert(real != NULL);
    numeric.ai_flags |= AI_NUMERICHOST;
    return real(node, service, &numeric, res);
}
