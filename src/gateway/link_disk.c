/* SPDX-License-Identifier: Apache-2.0 */
/* One slot under one mutex: the reactor replaces what lies in it, the thread takes it and writes.
 * The lock is held for the exchange of two pointers only, never over I/O, so the reactor never
 * waits for the disk. */
#include "gateway/link_disk.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/text.h"

struct link_disk {
    pthread_t thread;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    void *waiting;
    size_t waiting_size;
    bool stop;
    int error;
    char path[576];
};

static void *disk_main(void *arg)
{
    struct link_disk *d = arg;
    pthread_mutex_lock(&d->lock);
    for (;;) {
        while (d->waiting == NULL && !d->stop)
            pthread_cond_wait(&d->changed, &d->lock);
        if (d->waiting == NULL)
            break;
        void *bytes = d->waiting;
        size_t n = d->waiting_size;
        d->waiting = NULL;
        pthread_mutex_unlock(&d->lock);
        int r = text_write_file_atomic(d->path, bytes, n, 0600);
        free(bytes);
        pthread_mutex_lock(&d->lock);
        d->error = r;
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

struct link_disk *link_disk_new(const char *path)
{
    struct link_disk *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return NULL;
    int copied = text_copy(d->path, sizeof(d->path), path);
    weir_assert(copied == 0);
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, NULL);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int e = pthread_create(&d->thread, NULL, disk_main, d);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (e != 0) {
        pthread_cond_destroy(&d->changed);
        pthread_mutex_destroy(&d->lock);
        free(d);
        return NULL;
    }
    pthread_setname_np(d->thread, "controls-file");
    return d;
}

void link_disk_free(struct link_disk *d)
{
    if (d == NULL)
        return;
    pthread_mutex_lock(&d->lock);
    d->stop = true;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->thread, NULL);
    weir_assert(d->waiting == NULL);
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

void link_disk_put(struct link_disk *d, void *bytes, size_t n)
{
    weir_assert(bytes != NULL);
    pthread_mutex_lock(&d->lock);
    void *old = d->waiting;
    d->waiting = bytes;
    d->waiting_size = n;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
    free(old);
}

int link_disk_error(struct link_disk *d)
{
    pthread_mutex_lock(&d->lock);
    int e = d->error;
    pthread_mutex_unlock(&d->lock);
    return e;
}
