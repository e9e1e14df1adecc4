/* SPDX-License-Identifier: Apache-2.0 */
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/rng.h"

#define TEXT_FIRST_CAP 256u

void text_init(struct text *t, size_t max)
{
    /* An empty text is readable; cap 0 says that data is not ours to write or free. */
    *t = (struct text){.data = (char *)"", .max = max};
}

void text_fini(struct text *t)
{
    if (t->cap > 0)
        free(t->data);
    *t = (struct text){.data = (char *)""};
}

void text_clear(struct text *t)
{
    t->len = 0;
    t->failed = false;
    if (t->cap > 0)
        t->data[0] = '\0';
}

/* Make room for @n more bytes and the NUL. */
static bool text_reserve(struct text *t, size_t n)
{
    weir_assert(t->len <= t->max);
    if (t->failed || n > t->max - t->len) {
        t->failed = true;
        return false;
    }
    size_t need = t->len + n + 1;
    if (need <= t->cap)
        return true;
    size_t cap = t->cap ? t->cap : TEXT_FIRST_CAP;
    while (cap < need)
        cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    if (cap > t->max && t->max < SIZE_MAX)
        cap = need > t->max + 1 ? need : t->max + 1;
    char *data = realloc(t->cap > 0 ? t->data : NULL, cap);
    if (!data) {
        t->failed = true;
        return false;
    }
    t->data = data;
    t->cap = cap;
    return true;
}

void text_append(struct text *t, const void *bytes, size_t n)
{
    if (!text_reserve(t, n))
        return;
    if (n > 0)
        memcpy(t->data + t->len, bytes, n);
    t->len += n;
    t->data[t->len] = '\0';
}

void text_append_str(struct text *t, const char *s)
{
    text_append(t, s, strlen(s));
}

void text_printf(struct text *t, const char *format, ...)
{
    char small[512];
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(small, sizeof(small), format, ap);
    va_end(ap);
    if (n < 0) {
        t->failed = true;
        return;
    }
    if ((size_t)n < sizeof(small)) {
        text_append(t, small, (size_t)n);
        return;
    }
    if (!text_reserve(t, (size_t)n))
        return;
    va_start(ap, format);
    int again = vsnprintf(t->data + t->len, (size_t)n + 1, format, ap);
    va_end(ap);
    weir_assert(again == n);
    t->len += (size_t)n;
}

void text_consume(struct text *t, size_t n)
{
    weir_assert(n <= t->len);
    if (n == 0)
        return;
    memmove(t->data, t->data + n, t->len - n + 1);
    t->len -= n;
}

int text_copy(char *dst, size_t size, const char *src)
{
    weir_assert(size > 0);
    size_t n = strlen(src);
    if (n >= size) {
        dst[0] = '\0';
        return WEIR_E_TOO_LARGE;
    }
    memcpy(dst, src, n + 1);
    return 0;
}

/* Length of the well-formed UTF-8 character at @s (RFC 3629, table 3-7 of the Unicode standard), or
 * 0; its code point goes to @ret. */
static size_t utf8_char(const unsigned char *s, size_t n, uint32_t *ret)
{
    size_t len = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3
                 : s[0] < 0xf5 ? 4 : 0;
    if (len == 0 || len > n)
        return 0;
    static const unsigned char first_bits[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t c = s[0] & first_bits[len];
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        c = (c << 6) | (s[i] & 0x3fu);
    }
    if ((len == 3 && c < 0x800) || (len == 4 && c < 0x10000) || c > 0x10ffff ||
        (c >= 0xd800 && c <= 0xdfff))
        return 0;
    *ret = c;
    return len;
}

/* What would steer a terminal, hide, or turn the order of the text around. */
static bool steers_terminal(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x200b && c <= 0x200f) ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) || c == 0xfeff;
}

size_t text_escape(char *out, size_t size, const char *s, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    weir_assert(size > 0);
    size_t used = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        size_t len = utf8_char((const unsigned char *)s + i, n - i, &c);
        bool plain = len > 0 && !steers_terminal(c);
        if (len == 0)
            len = 1;
        if (used + (plain ? len : 4 * len) >= size)
            break;
        for (size_t k = 0; k < len; k++, i++) {
            unsigned char byte = (unsigned char)s[i];
            if (plain) {
                out[used++] = (char)byte;
                continue;
            }
            out[used++] = '\\';
            out[used++] = 'x';
            out[used++] = digits[byte >> 4];
            out[used++] = digits[byte & 15];
        }
    }
    out[used] = '\0';
    return used;
}

void text_append_escaped(struct text *t, const char *s)
{
    size_t n = strlen(s);
    if (n > (SIZE_MAX - 1) / 4 || !text_reserve(t, 0)) {
        t->failed = true;
        return;
    }
    t->data[t->len] = '\0'; /* there may be nothing to come */
    /* In pieces, so that the worst case (four bytes for one) needs no large buffer. A character may
     * straddle a border: the last bytes of a piece are only taken when it is the last. */
    char piece[1024];
    while (n > 0) {
        size_t take = n > 240 ? 240 : n;
        while (take < n && take > 236 && ((unsigned char)s[take] & 0xc0) == 0x80)
            take--;
        size_t len = text_escape(piece, sizeof(piece), s, take);
        text_append(t, piece, len);
        s += take;
        n -= take;
    }
}

int text_hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int text_read_file(const char *path, size_t max, char **ret_data, size_t *ret_len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return -errno;
    int r = 0;
    struct stat st;
    struct text t;
    text_init(&t, max);
    if (fstat(fd, &st) < 0)
        r = -errno;
    else if (S_ISDIR(st.st_mode))
        r = -EISDIR;
    char chunk[16384];
    while (r == 0) {
        ssize_t n = read(fd, chunk, sizeof(chunk));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            r = -errno;
        if (n <= 0)
            break;
        if ((size_t)n > max - t.len)
            r = WEIR_E_TOO_LARGE;
        else
            text_append(&t, chunk, (size_t)n);
    }
    close(fd);
    if (r == 0)
        text_append(&t, "", 0);
    if (r == 0 && t.failed)
        r = -ENOMEM;
    if (r < 0) {
        text_fini(&t);
        return r;
    }
    *ret_data = t.data;
    if (ret_len != NULL)
        *ret_len = t.len;
    return 0;
}

static int write_all(int fd, const void *bytes, size_t n)
{
    const char *p = bytes;
    while (n > 0) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return -errno;
        p += done;
        n -= (size_t)done;
    }
    return 0;
}

static int sync_folder_of(const char *path)
{
    char copy[PATH_MAX];
    if (text_copy(copy, sizeof(copy), path) < 0)
        return -ENAMETOOLONG;
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = fsync(fd) < 0 ? -errno : 0;
    close(fd);
    return r;
}

int text_write_file_atomic(const char *path, const void *bytes, size_t n, unsigned mode)
{
    char temporary[PATH_MAX];
    uint64_t salt;
    rng_system(&salt, sizeof(salt));
    int len = snprintf(temporary, sizeof(temporary), "%s.%016llx.tmp", path,
                       (unsigned long long)salt);
    if (len < 0 || (size_t)len >= sizeof(temporary))
        return -ENAMETOOLONG;

    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    int r = write_all(fd, bytes, n);
    if (r == 0 && fchmod(fd, (mode_t)mode) < 0)
        r = -errno;
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    if (close(fd) < 0 && r == 0)
        r = -errno;
    if (r == 0 && rename(temporary, path) < 0)
        r = -errno;
    if (r < 0) {
        unlink(temporary);
        return r;
    }
    return sync_folder_of(path);
}
