/* SPDX-License-Identifier: Apache-2.0 */
/* One slot under one mutex: the reactor replaces what lies in it, the thread takes it and writes.
 * The lock is held for the exchange of two pointers only, never over I/O, so the reactor never
 * waits for the disk. What could not be written goes back into the slot, if nothing newer lies
 * there, and is tried again: the disk may have room by then, and nobody hands the same content over
 * twice. */
#include "gateway/link_disk.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/log.h"
#include "base/text.h"

#define RETRY_SECONDS 5

struct link_disk {
    pthread_t thread;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    void *waiting;
    size_t waiting_size;
    bool writing;
    bool stop;
    bool retry; /* what waits has failed before */
    int error;
    char path[576];
};

/* Said when it begins and when it is over, not at each try. */
static void disk_log(const struct link_disk *d, int before, int now)
{
    if (now < 0 && now != before)
        log_warning("%s cannot be written: %s; trying again", d->path, weir_strerror(now));
    else if (now == 0 && before < 0)
        log_info("%s is written again", d->path);
}

/* Write what waits, without the lock meanwhile. */
static void disk_write(struct link_disk *d)
{
    void *bytes = d->waiting;
    size_t n = d->waiting_size;
    int before = d->error;
    d->waiting = NULL;
    d->writing = true;
    pthread_mutex_unlock(&d->lock);
    int r = text_write_file_atomic(d->path, bytes, n, 0600);
    disk_log(d, before, r);
    pthread_mutex_lock(&d->lock);
    d->error = r;
    d->writing = false;
    if (r < 0 && d->waiting == NULL && !d->stop) {
        d->waiting = bytes;
        d->waiting_size = n;
        d->retry = true;
        return;
    }
    free(bytes);
}

/* Until there is something to write (or to write again), or the end. */
static void disk_wait(struct link_disk *d)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += RETRY_SECONDS;
    while (!d->stop && (d->waiting == NULL || d->retry)) {
        int e = d->retry ? pthread_cond_timedwait(&d->changed, &d->lock, &until)
                         : pthread_cond_wait(&d->changed, &d->lock);
        if (e != 0)
            break;
    }
    d->retry = false;
}

static void *disk_main(void *arg)
{
    struct link_disk *d = arg;
    pthread_mutex_lock(&d->lock);
    do {
        disk_wait(d);
        if (d->waiting != NULL)
            disk_write(d);
    } while (!d->stop || d->waiting != NULL);
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

static void disk_sync_init(struct link_disk *d)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, &attr);
    pthread_condattr_destroy(&attr);
}

struct link_disk *link_disk_new(const char *path)
{
    struct link_disk *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return NULL;
    int copied = text_copy(d->path, sizeof(d->path), path);
    weir_assert(copied == 0);
    disk_sync_init(d);
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
    d->retry = false;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
    free(old);
}

bool link_disk_idle(struct link_disk *d)
{
    pthread_mutex_lock(&d->lock);
    bool idle = d->waiting == NULL && !d->writing;
    pthread_mutex_unlock(&d->lock);
    return idle;
}

int link_disk_error(struct link_disk *d)
{
    pthread_mutex_lock(&d->lock);
    int e = d->error;
    pthread_mutex_unlock(&d->lock);
    return e;
}
