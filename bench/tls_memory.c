/* SPDX-License-Identifier: Apache-2.0 */
/* What TLS adds to a gateway's session at the server: sessions made as its acceptor makes them.
 *
 *   bench-tls [SESSIONS]   1000
 *
 * The peers are in another process, so that only the server's side is counted. Each session ends
 * its handshake, sends one record of 100 bytes (a poll) and takes one of 2,000 (an answer), then
 * rests. One line of JSON: resident memory, and what the allocator was asked for, per session; what
 * the kernel keeps for a socket is in neither, as for plain ones. */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "tls/creds.h"
#include "tls/identity.h"
#include "tls/session.h"

#define POLL_BYTES   100u
#define ANSWER_BYTES 2000u

static void wait_for(int fd, bool write)
{
    struct pollfd p = {.fd = fd, .events = write ? POLLOUT : POLLIN};
    int r = poll(&p, 1, 10000);
    weir_assert(r == 1);
}

static struct tls_session *shake(struct tls_creds *c, int fd)
{
    struct tls_session *s = NULL;
    int r = tls_session_new(c, fd, &s);
    weir_assert(r == 0);
    while ((r = tls_session_handshake(s)) == 0)
        wait_for(fd, tls_session_wants_write(s));
    if (r < 0) {
        fprintf(stderr, "handshake: %s\n", tls_session_words(s));
        exit(1);
    }
    return s;
}

static void take(struct tls_session *s, int fd, size_t n)
{
    char bytes[ANSWER_BYTES];
    weir_assert(n <= sizeof(bytes));
    while (n > 0) {
        ssize_t r = tls_session_read(s, bytes, n);
        weir_assert(r > 0 || r == -EAGAIN);
        if (r > 0)
            n -= (size_t)r;
        else
            wait_for(fd, false);
    }
}

static void give(struct tls_session *s, size_t n)
{
    static const char bytes[ANSWER_BYTES];
    ssize_t r = tls_session_send(s, bytes, n);
    weir_assert(r == (ssize_t)n); /* an empty socket takes it */
}

static size_t resident(void)
{
    unsigned long size, pages;
    FILE *f = fopen("/proc/self/statm", "r");
    weir_assert(f != NULL);
    int r = fscanf(f, "%lu %lu", &size, &pages);
    weir_assert(r == 2);
    fclose(f);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

static struct tls_creds *creds(enum tls_side side, const char *pem)
{
    char words[512];
    struct tls_creds *c = NULL;
    /* As monitor.c has them: each side's key is judged by its owner. */
    struct tls_files f = {.peer = TLS_PEER_PINNED, .only_tls13 = true, .shared = true};
    snprintf(f.certificate, sizeof(f.certificate), "%s", pem);
    snprintf(f.key, sizeof(f.key), "%s", pem);
    if (tls_creds_new(side, &f, &c, words, sizeof(words)) < 0) {
        fprintf(stderr, "%s\n", words);
        exit(1);
    }
    return c;
}

/* The gateways' side: answers until the other end closes. */
static void peers(const int *fd, size_t n, const char *pem)
{
    struct tls_creds *c = creds(TLS_CLIENT, pem);
    struct tls_session **s = calloc(n, sizeof(struct tls_session *));
    char end;
    weir_assert(s != NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (size_t i = 0; i < n; i++) {
        s[i] = shake(c, fd[i]);
        take(s[i], fd[i], POLL_BYTES);
        give(s[i], ANSWER_BYTES);
    }
    for (size_t i = 0; i < n; i++) {
        wait_for(fd[i], false);
        (void)!read(fd[i], &end, 1);
    }
    _exit(0);
}

int main(int argc, char **argv)
{
    size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
    int *here = calloc(n + 1, sizeof(*here)), *there = calloc(n + 1, sizeof(*there));
    struct tls_session **s = calloc(n + 1, sizeof(struct tls_session *));
    char pem[] = "/tmp/weir-bench-tls-XXXXXX/tls.pem", words[512];
    weir_assert(n > 0 && here != NULL && there != NULL && s != NULL);
    char *slash = strrchr(pem, '/');
    *slash = '\0';
    char *folder = mkdtemp(pem);
    weir_assert(folder != NULL);
    *slash = '/';
    if (tls_identity_ensure(pem, "bench", words, sizeof(words)) < 0) {
        fprintf(stderr, "%s\n", words);
        return 1;
    }
    for (size_t i = 0; i < n; i++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0) {
            perror("socketpair");
            return 1;
        }
        here[i] = pair[0];
        there[i] = pair[1];
    }
    pid_t child = fork();
    weir_assert(child >= 0);
    if (child == 0)
        peers(there, n, pem);
    struct tls_creds *c = creds(TLS_SERVER, pem);
    /* The first one fills the library's own tables. */
    s[0] = shake(c, here[0]);
    size_t asked = mallinfo2().uordblks, before = resident();
    for (size_t i = 0; i < n; i++) {
        s[i] = i == 0 ? s[0] : shake(c, here[i]);
        give(s[i], POLL_BYTES);
        take(s[i], here[i], ANSWER_BYTES);
    }
    double each = n > 1 ? (double)(n - 1) : 1;
    printf("{\"sessions\": %zu, \"resident\": %.0f, \"allocated\": %.0f}\n", n,
           (double)(resident() - before) / each, (double)(mallinfo2().uordblks - asked) / each);
    for (size_t i = 0; i < n; i++) {
        tls_session_free(s[i]);
        close(here[i]);
    }
    waitpid(child, NULL, 0);
    tls_creds_unref(c);
    unlink(pem);
    *slash = '\0';
    rmdir(pem);
    free(here);
    free(there);
    free(s);
    return 0;
}
