/* SPDX-License-Identifier: Apache-2.0 */
#include "server/monitor/found.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"

static bool is_of_one_host_4(const uint8_t b[4])
{
    return b[0] != 0 && b[0] < 224 && !(b[0] == 169 && b[1] == 254);
}

static bool is_of_one_host_6(const uint8_t b[16])
{
    static const uint8_t nobody[16];
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    if (memcmp(b, mapped, sizeof(mapped)) == 0)
        return false; /* IPv4 is announced as such */
    bool link = b[0] == 0xfe && (b[1] & 0xc0) == 0x80;
    return b[0] != 0xff && !link && memcmp(b, nobody, sizeof(nobody)) != 0;
}

bool found_address(int family, const void *bytes, uint16_t port, char *out, size_t size)
{
    char host[INET6_ADDRSTRLEN];
    bool six = family == AF_INET6;
    if (port == 0 || (!six && family != AF_INET))
        return false;
    if (!(six ? is_of_one_host_6(bytes) : is_of_one_host_4(bytes)))
        return false;
    if (inet_ntop(family, bytes, host, sizeof(host)) == NULL)
        return false;
    char text[INET6_ADDRSTRLEN + 10];
    int n = snprintf(text, sizeof(text), six ? "[%s]:%u" : "%s:%u", host, port);
    weir_assert(n > 0 && (size_t)n < sizeof(text));
    if ((size_t)n >= size)
        return false;
    memcpy(out, text, (size_t)n + 1);
    return true;
}

void found_add(struct found_list *list, const struct found *f)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->item[i].address, f->address) == 0)
            return;
    weir_assert(list->count < FOUND_MAX);
    list->item[list->count++] = *f;
}
