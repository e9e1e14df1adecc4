/* SPDX-License-Identifier: Apache-2.0 */
/* getaddrinfo(3) may sit in its time-outs for half a minute and cannot be called off. So each
 * look-up gets a detached thread; the request is owned by two, the thread and the asker, and freed
 * by whoever lets go last. The asker may go at any time. The result is written before done is
 * stored (release) and read after done was seen (acquire). As many look-ups can be under way as the
 * resolver has time-outs outstanding: the caller bounds how often it asks. */
#include "server/resource/lookup.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/assert.h"

struct lookup {
    _Atomic int owners;
    _Atomic bool done;
    int rc;
    struct addrinfo *result;
    char host[256];
};

bool lookup_done(const struct lookup *l)
{
    return atomic_load_explicit(&l->done, memory_order_acquire);
}

int lookup_result(const struct lookup *l, const struct addrinfo **ret)
{
    weir_assert(lookup_done(l));
    *ret = l->result;
    return l->rc;
}

void lookup_drop(struct lookup *l)
{
    if (l == NULL || atomic_fetch_sub_explicit(&l->owners, 1, memory_order_acq_rel) > 1)
        return;
    if (l->result != NULL)
        freeaddrinfo(l->result);
    free(l);
}

static void *look_up(void *arg)
{
    struct lookup *l = arg;
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    l->rc = getaddrinfo(l->host, NULL, &hints, &l->result);
    if (l->rc != 0)
        l->result = NULL;
    atomic_store_explicit(&l->done, true, memory_order_release);
    lookup_drop(l);
    return NULL;
}

struct lookup *lookup_start(const char *host)
{
    pthread_attr_t attr;
    pthread_t thread;
    struct lookup *l = calloc(1, sizeof(*l));
    if (l == NULL)
        return NULL;
    atomic_init(&l->owners, 2);
    snprintf(l->host, sizeof(l->host), "%s", host);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int rc = pthread_create(&thread, &attr, look_up, l);
    pthread_attr_destroy(&attr);
    if (rc == 0)
        return l;
    free(l);
    return NULL;
}
