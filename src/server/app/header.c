/* SPDX-License-Identifier: Apache-2.0 */
#include "server/app/header.h"

#include <arpa/inet.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/assert.h"

static const char *skip_space(const char *p)
{
    return p + strspn(p, " \t");
}

/* Whether the media range of @n bytes at @p covers @type. */
static bool range_covers(const char *p, size_t n, const char *type)
{
    if (n == 3 && memcmp(p, "*/*", 3) == 0)
        return true;
    size_t slash = strcspn(type, "/");
    if (n == slash + 2 && strncasecmp(p, type, slash + 1) == 0 && p[n - 1] == '*')
        return true;
    return n == strlen(type) && strncasecmp(p, type, n) == 0;
}

/* Whether the parameters between @p and @end have a weight of 0. */
static bool weight_is_zero(const char *p, const char *end)
{
    for (; p < end; p++) {
        if (*p != ';')
            continue;
        const char *q = skip_space(p + 1);
        if (q + 2 < end && (*q == 'q' || *q == 'Q') && q[1] == '=')
            return q[2] == '0' && strspn(q + 2, "0.") >= (size_t)strcspn(q + 2, ";, \t");
    }
    return false;
}

bool header_accepts(const char *accept, const char *type)
{
    if (!accept || *skip_space(accept) == '\0')
        return true;
    for (const char *p = accept; *p != '\0';) {
        p = skip_space(p);
        const char *end = p + strcspn(p, ",");
        size_t n = strcspn(p, ",; \t");
        if (n > 0 && range_covers(p, n, type) && !weight_is_zero(p + n, end))
            return true;
        p = *end == ',' ? end + 1 : end;
    }
    return false;
}

bool header_is_json(const char *content_type)
{
    static const char json[] = "application/json";
    if (!content_type || strncasecmp(content_type, json, sizeof(json) - 1) != 0)
        return false;
    const char *p = skip_space(content_type + sizeof(json) - 1);
    if (*p == '\0')
        return true;
    if (*p != ';')
        return false;
    p = skip_space(p + 1);
    if (*p == '\0')
        return true;
    return strcasecmp(p, "charset=utf-8") == 0 || strcasecmp(p, "charset=\"utf-8\"") == 0;
}

bool header_tag_matches(const char *list, const char *tag, bool weak)
{
    size_t n = strlen(tag);
    const char *p = skip_space(list);
    if (p[0] == '*' && *skip_space(p + 1) == '\0')
        return true;
    while (*p != '\0') {
        p = skip_space(p);
        bool is_weak = strncmp(p, "W/", 2) == 0;
        if (is_weak)
            p += 2;
        if (strncmp(p, tag, n) == 0 && strchr(", \t", p[n]) && (weak || !is_weak))
            return true;
        if (*p == '"') { /* a comma may stand inside the quotes */
            const char *close = strchr(p + 1, '"');
            p = close ? close + 1 : p + strlen(p);
        }
        p += strcspn(p, ",");
        p += *p == ',';
    }
    return false;
}

/* Split "name", "name:port", "[v6]:port" into @name of 64 bytes; the port, the scheme's when
 * absent, or -1. */
static long split_host(const char *host, bool tls, char name[64])
{
    size_t n = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
    if (n >= 64 || n == 0 || n > strlen(host))
        return -1;
    memcpy(name, host, n);
    name[n] = '\0';
    const char *port = host + n;
    if (*port == '\0')
        return tls ? 443 : 80;
    if (*port != ':' || port[1] == '\0' || strlen(port) > 6 ||
        strspn(port + 1, "0123456789") != strlen(port + 1))
        return -1;
    return strtol(port + 1, NULL, 10);
}

bool header_host_is_local(const char *host, uint16_t port, bool tls)
{
    char name[64];
    weir_assert(port > 0);
    if (!host || split_host(host, tls, name) != port)
        return false;
    struct in_addr v4;
    if (strcasecmp(name, "localhost") == 0 || strcmp(name, "[::1]") == 0)
        return true;
    return inet_pton(AF_INET, name, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127;
}

bool header_origin_is_own(const char *origin, const char *host, uint16_t port, bool tls)
{
    const char *scheme = tls ? "https://" : "http://";
    if (!origin || strncmp(origin, scheme, strlen(scheme)) != 0)
        return false;
    const char *of = origin + strlen(scheme);
    return header_host_is_local(of, port, tls) || (tls && host && strcasecmp(of, host) == 0);
}

#define TOKEN_LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/="

const char *header_bearer(const char *authorization)
{
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0)
        return NULL;
    const char *token = skip_space(authorization + 7);
    size_t n = strspn(token, TOKEN_LETTERS);
    return n > 0 && token[n] == '\0' ? token : NULL;
}

bool header_basic(const char *authorization, char *ret, size_t size)
{
    char plain[256];
    size_t n = 0;
    if (!authorization || strncasecmp(authorization, "Basic ", 6) != 0)
        return false;
    const char *coded = skip_space(authorization + 6);
    if (sodium_base642bin((unsigned char *)plain, sizeof(plain) - 1, coded, strlen(coded), NULL, &n,
                          NULL, sodium_base64_VARIANT_ORIGINAL) != 0)
        return false;
    plain[n] = '\0';
    const char *colon = memchr(plain, ':', n);
    size_t length = colon ? n - (size_t)(colon + 1 - plain) : 0;
    bool good = length > 0 && length < size && strspn(colon + 1, TOKEN_LETTERS) == length;
    if (good)
        memcpy(ret, colon + 1, length + 1);
    sodium_memzero(plain, sizeof(plain));
    return good;
}
